"""Everything that can be set, declared once: name, default, group, help. Flags, environment, file
and documentation all come from here; config_sources reads them.

Names, units and defaults are those of Triton's flags wherever Triton has the flag.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from penstock.config_foreign import FOREIGN, ForeignFlag

GROUPS: Mapping[str, str] = MappingProxyType(
    {
        "server": "the server as a whole",
        "repository": "where models come from and when they are loaded",
        "grpc": "the gRPC port",
        "metrics": "the metrics port",
        "logging": "what is written to the log",
        "cache": "responses that are kept and given again, for the models that ask for it",
        "limits": "bounds beyond which the answer is immediate and retryable",
        "ignored": "flags of Triton that are accepted and have no effect here",
    }
)


@dataclass(frozen=True, slots=True)
class FlagInfo:
    """What there is to know of an option beside its default."""

    group: str
    help: str
    choices: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    metavar: str = ""
    separator: str = ","
    """Between the values of a repeated option in its environment variable."""


def _option(default: Any, group: str, text: str, secret: bool = False, **more: Any) -> Any:
    info = FlagInfo(group, text, **more)
    return field(default=default, repr=not secret, metadata={"flag": info})


def _port(default: int, group: str, text: str) -> Any:
    return _option(default, group, text, minimum=0, maximum=65535, metavar="PORT")


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """The options of one server; a tuple is an option that may be given several times."""

    # -- server ----------------------------------------------------------------------------------
    server_name: str = _option(
        "penstock", "server", "Name in ServerMetadata.", aliases=("id", "server-id")
    )
    processes: int = _option(
        1,
        "server",
        "Whole servers that share the gRPC port, each with every model, for models that keep one "
        "interpreter busy.",
        minimum=1,
        maximum=256,
    )
    exit_timeout_secs: int = _option(
        30, "server", "How long a stopping server waits for what was accepted.", minimum=0
    )
    drain_delay: float = _option(
        -1.0,
        "server",
        "Seconds to go on serving, not ready, after SIGTERM, so that load balancers notice "
        "(-1: 5 under Kubernetes, else 0).",
        metavar="SECONDS",
    )
    exit_on_error: bool = _option(
        True, "server", "End with an error if a model does not load at start."
    )
    strict_readiness: bool = _option(
        True, "server", "Ready only when every selected model is ready (false: once up)."
    )
    stall_dump_secs: float = _option(
        2.0,
        "server",
        "Write a stack dump when the event loop stands still for so long (0: never).",
        minimum=0,
        metavar="SECONDS",
    )
    config_file: str = _option(
        "", "server", "JSON or YAML file with options; flags and environment win over it."
    )

    # -- repository ------------------------------------------------------------------------------
    model_repository: tuple[str, ...] = _option(
        (),
        "repository",
        "Directory of models, or of one model; may be repeated.",
        aliases=("model-store",),
        metavar="DIR",
    )
    model_control_mode: str = _option(
        "none",
        "repository",
        "none: load all at start and change nothing; poll: follow the directory; "
        "explicit: load what --load-model and the RPCs name.",
        choices=("none", "poll", "explicit"),
    )
    load_model: tuple[str, ...] = _option(
        (),
        "repository",
        "Model to load at start in explicit mode; may be repeated, * means all.",
        metavar="NAME",
    )
    repository_poll_secs: float = _option(
        15.0, "repository", "Seconds between two looks in mode poll.", minimum=0.05
    )
    model_name: str = _option(
        "", "repository", "Name of the model if --model-repository is one model's directory."
    )
    model_config_name: str = _option(
        "", "repository", "Use configs/NAME.pbtxt of each model that has it."
    )
    model_load_thread_count: int = _option(
        4, "repository", "Models loaded at the same time.", minimum=1
    )
    model_load_retry_count: int = _option(
        0, "repository", "How often a load that failed at start is tried again.", minimum=0
    )
    disable_auto_complete_config: bool = _option(
        False, "repository", "Take configurations as they are; ask no model to complete them."
    )
    allow_pickle: tuple[str, ...] = _option(
        (),
        "repository",
        "Model whose weights may be a pickle, which can run code; may be repeated.",
        metavar="NAME",
    )

    # -- gRPC ------------------------------------------------------------------------------------
    transport: str = _option(
        "http2",
        "grpc",
        "What carries the calls: HTTP/2 of this server's own, or gRPC's library.",
        choices=("http2", "grpcio"),
    )
    grpc_port: int = _port(8001, "grpc", "Port of the inference service (0: any free one).")
    grpc_address: tuple[str, ...] = _option(
        ("0.0.0.0",),
        "grpc",
        "Where to listen: host, host:port or unix:/path; may be repeated.",
        metavar="ADDRESS",
    )
    reuse_grpc_port: bool = _option(
        False, "grpc", "Share the port with other processes (SO_REUSEPORT)."
    )
    grpc_keepalive_time: int = _option(
        7_200_000, "grpc", "Milliseconds of silence before a keepalive ping.", minimum=1
    )
    grpc_keepalive_timeout: int = _option(
        20_000, "grpc", "Milliseconds to wait for the answer to it.", minimum=1
    )
    grpc_keepalive_permit_without_calls: bool = _option(
        False, "grpc", "Ping connections without calls as well."
    )
    grpc_http2_max_pings_without_data: int = _option(
        2, "grpc", "Pings without data in between (0: no limit).", minimum=0
    )
    grpc_http2_min_recv_ping_interval_without_data: int = _option(
        300_000, "grpc", "Milliseconds that a client must leave between pings.", minimum=0
    )
    grpc_http2_max_ping_strikes: int = _option(
        2, "grpc", "Pings that come too early before the connection ends (0: any).", minimum=0
    )
    grpc_max_connection_age: int = _option(
        0, "grpc", "Milliseconds after which a connection is renewed (0: never).", minimum=0
    )
    grpc_max_connection_age_grace: int = _option(
        0, "grpc", "Milliseconds that its calls get to end (0: any).", minimum=0
    )
    grpc_handshake_timeout: int = _option(
        20_000, "grpc", "Milliseconds that a new connection gets to speak HTTP/2.", minimum=1
    )
    grpc_max_connection_idle: int = _option(
        0,
        "grpc",
        "Milliseconds without calls after which a connection is closed (0: never).",
        minimum=0,
    )
    grpc_use_ssl: bool = _option(False, "grpc", "Speak TLS (1.2 and above) on the gRPC port.")
    grpc_use_ssl_mutual: bool = _option(
        False, "grpc", "Speak TLS, and only with clients whose certificate --grpc-root-cert signed."
    )
    grpc_server_cert: str = _option(
        "", "grpc", "Certificate of the server and those that signed it, PEM.", metavar="FILE"
    )
    grpc_server_key: str = _option(
        "", "grpc", "Private key of that certificate, PEM, not encrypted.", metavar="FILE"
    )
    grpc_root_cert: str = _option(
        "", "grpc", "Certificates that sign the clients', PEM.", metavar="FILE"
    )
    grpc_infer_response_compression_level: str = _option(
        "none", "grpc", "How hard to compress.", choices=("none", "low", "medium", "high")
    )
    grpc_header_forward_pattern: str = _option(
        "",
        "grpc",
        "Models see the metadata whose names match this expression (any case).",
        metavar="REGEX",
    )
    grpc_restricted_protocol: tuple[str, ...] = _option(
        (),
        "grpc",
        "These groups of RPCs (health, metadata, inference, shared-memory, model-config, "
        "model-repository, statistics, trace, logging) answer only callers who send the metadata "
        "triton-grpc-protocol-KEY: VALUE; may be repeated, in the environment separated by ;.",
        secret=True,
        metavar="GROUP[,GROUP]:KEY=VALUE",
        separator=";",
    )

    # -- metrics ---------------------------------------------------------------------------------
    allow_metrics: bool = _option(True, "metrics", "Serve Prometheus metrics.")
    metrics_port: int = _port(8002, "metrics", "Port of the metrics (0: any free one).")
    metrics_address: str = _option("0.0.0.0", "metrics", "Host to serve the metrics on.")
    metrics_config: tuple[str, ...] = _option(
        (),
        "metrics",
        "Families of Triton's that are off or on by default: counter_latencies, "
        "histogram_latencies, summary_latencies (=true or =false), summary_quantiles "
        "(=0.5:0.05,0.99:0.001); may be repeated.",
        metavar="KEY=VALUE",
    )
    rpc_metrics: bool = _option(
        True, "metrics", "Count and time every RPC (grpc_server_handled_total and more)."
    )

    # -- logging ---------------------------------------------------------------------------------
    log_format: str = _option(
        "default",
        "logging",
        "default: for people; ISO8601: with full dates; json: one object a line.",
        choices=("default", "ISO8601", "json"),
    )
    log_verbose: int = _option(0, "logging", "1 and above: debug records too.", minimum=0)
    log_info: bool = _option(True, "logging", "Write records of level info.")
    log_warning: bool = _option(True, "logging", "Write warnings.")
    log_error: bool = _option(True, "logging", "Write errors.")
    log_file: str = _option("", "logging", "Write to this file rather than to stderr.")
    access_log: bool = _option(False, "logging", "One line for every request.")

    # -- cache -----------------------------------------------------------------------------------
    cache_config: tuple[str, ...] = _option(
        (),
        "cache",
        "local,size=BYTES switches the response cache on, ttl=SECONDS bounds the age of what it "
        "gives; may be repeated.",
        metavar="local,KEY=VALUE",
    )
    response_cache_byte_size: int = _option(
        0, "cache", "The old name of --cache-config=local,size=BYTES (0: no cache).", minimum=0
    )

    # -- limits ----------------------------------------------------------------------------------
    max_inflight_bytes: int = _option(
        0,
        "limits",
        "Bytes of requests in flight, all together (0: a quarter of the memory).",
        minimum=0,
    )
    grpc_max_concurrent_rpcs: int = _option(
        0, "limits", "Calls at the same time; more are refused (0: no limit).", minimum=0
    )
    grpc_max_concurrent_streams: int = _option(
        0, "limits", "Calls at the same time on one connection; more wait (0: any).", minimum=0
    )
    grpc_max_connections: int = _option(
        0,
        "limits",
        "Connections at the same time, newer ones are closed (0: as many as there are file "
        "descriptors, less a reserve; --transport=http2 only).",
        minimum=0,
    )
    stream_max_inflight: int = _option(
        256, "limits", "Requests in flight on one stream; more are not read.", minimum=1
    )
    stream_max_unsent_bytes: int = _option(
        64 << 20, "limits", "Bytes of responses that wait on one stream.", minimum=1
    )
    stream_stall_secs: float = _option(
        30.0,
        "limits",
        "A stream whose reader takes nothing for so long while responses wait is ended.",
        minimum=0.05,
        metavar="SECONDS",
    )
    max_health_watchers: int = _option(1024, "limits", "Open Health/Watch calls.", minimum=0)

    # -- set by the reader, not by a flag --------------------------------------------------------
    ignored: tuple[str, ...] = ()
    """Flags of Triton that were given and have no effect."""
    grpc_response_delay_s: float = 0.0
    """A hook of Triton's tests: every RPC but inference waits so long before it answers."""


@dataclass(frozen=True, slots=True)
class Flag:
    """One option as a user meets it."""

    field: str
    default: Any
    info: FlagInfo

    @property
    def name(self) -> str:
        """The flag's name without dashes in front."""
        return self.field.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable of the same meaning."""
        return f"PENSTOCK_{self.field.upper()}"

    @property
    def repeated(self) -> bool:
        """Whether it may be given several times."""
        return isinstance(self.default, tuple)


FLAGS: tuple[Flag, ...] = tuple(
    Flag(f.name, f.default, f.metadata["flag"]) for f in fields(ServerOptions) if f.metadata
)
FOREIGN_FLAGS: Mapping[str, ForeignFlag] = FOREIGN
