"""Options of the gRPC port."""

from dataclasses import dataclass

from penstock.options.flag import option, port


@dataclass(frozen=True)
class GrpcOptions:
    """The gRPC port."""

    transport: str = option(
        "http2",
        "grpc",
        "What carries the calls: HTTP/2 of this server's own, or gRPC's library.",
        choices=("http2", "grpcio"),
    )
    grpc_port: int = port(8001, "grpc", "Port of the inference service (0: any free one).")
    grpc_address: tuple[str, ...] = option(
        ("0.0.0.0",),
        "grpc",
        "Where to listen: host, host:port or unix:/path; may be repeated.",
        metavar="ADDRESS",
    )
    reuse_grpc_port: bool = option(
        False, "grpc", "Share the port with other processes (SO_REUSEPORT)."
    )
    grpc_keepalive_time: int = option(
        7_200_000, "grpc", "Milliseconds of silence before a keepalive ping.", minimum=1
    )
    grpc_keepalive_timeout: int = option(
        20_000, "grpc", "Milliseconds to wait for the answer to it.", minimum=1
    )
    grpc_keepalive_permit_without_calls: bool = option(
        False, "grpc", "Ping connections without calls as well."
    )
    grpc_http2_max_pings_without_data: int = option(
        2, "grpc", "Pings without data in between (0: no limit).", minimum=0
    )
    grpc_http2_min_recv_ping_interval_without_data: int = option(
        300_000, "grpc", "Milliseconds that a client must leave between pings.", minimum=0
    )
    grpc_http2_max_ping_strikes: int = option(
        2, "grpc", "Pings that come too early before the connection ends (0: any).", minimum=0
    )
    grpc_max_connection_age: int = option(
        0, "grpc", "Milliseconds after which a connection is renewed (0: never).", minimum=0
    )
    grpc_max_connection_age_grace: int = option(
        0, "grpc", "Milliseconds that its calls get to end (0: any).", minimum=0
    )
    grpc_handshake_timeout: int = option(
        20_000, "grpc", "Milliseconds that a new connection gets to speak HTTP/2.", minimum=1
    )
    grpc_max_connection_idle: int = option(
        0,
        "grpc",
        "Milliseconds without calls after which a connection is closed (0: never).",
        minimum=0,
    )
    grpc_use_ssl: bool = option(False, "grpc", "Speak TLS (1.2 and above) on the gRPC port.")
    grpc_use_ssl_mutual: bool = option(
        False, "grpc", "Speak TLS, and only with clients whose certificate --grpc-root-cert signed."
    )
    grpc_server_cert: str = option(
        "", "grpc", "Certificate of the server and those that signed it, PEM.", metavar="FILE"
    )
    grpc_server_key: str = option(
        "", "grpc", "Private key of that certificate, PEM, not encrypted.", metavar="FILE"
    )
    grpc_root_cert: str = option(
        "", "grpc", "Certificates that sign the clients', PEM.", metavar="FILE"
    )
    grpc_infer_response_compression_level: str = option(
        "none", "grpc", "How hard to compress.", choices=("none", "low", "medium", "high")
    )
    grpc_header_forward_pattern: str = option(
        "",
        "grpc",
        "Models see the metadata whose names match this expression (any case).",
        metavar="REGEX",
    )
    grpc_restricted_protocol: tuple[str, ...] = option(
        (),
        "grpc",
        "These groups of RPCs (health, metadata, inference, shared-memory, model-config, "
        "model-repository, statistics, trace, logging) answer only callers who send the metadata "
        "triton-grpc-protocol-KEY: VALUE; may be repeated, in the environment separated by ;.",
        secret=True,
        metavar="GROUP[,GROUP]:KEY=VALUE",
        separator=";",
    )
