"""Options of what a server tells of itself: metrics and logs."""

from dataclasses import dataclass

from penstock.options.flag import option, port


@dataclass(frozen=True)
class MetricsOptions:
    """The metrics port."""

    allow_metrics: bool = option(True, "metrics", "Serve Prometheus metrics.")
    metrics_port: int = port(8002, "metrics", "Port of the metrics (0: any free one).")
    metrics_address: str = option("0.0.0.0", "metrics", "Host to serve the metrics on.")
    metrics_config: tuple[str, ...] = option(
        (),
        "metrics",
        "Families of Triton's that are off or on by default: counter_latencies, "
        "histogram_latencies, summary_latencies (=true or =false), summary_quantiles "
        "(=0.5:0.05,0.99:0.001); may be repeated.",
        metavar="KEY=VALUE",
    )
    metrics_compat: tuple[str, ...] = option(
        (),
        "metrics",
        "Tell the families of language models under other names too: vllm (vllm:...), otel "
        "(gen_ai_server_..., OpenTelemetry's); may be repeated.",
        metavar="NAMES",
    )
    rpc_metrics: bool = option(
        True, "metrics", "Count and time every RPC (grpc_server_handled_total and more)."
    )


@dataclass(frozen=True)
class LoggingOptions:
    """What is written to the log."""

    log_format: str = option(
        "default",
        "logging",
        "default: for people; ISO8601: with full dates; json: one object a line.",
        choices=("default", "ISO8601", "json"),
    )
    log_verbose: int = option(0, "logging", "1 and above: debug records too.", minimum=0)
    log_info: bool = option(True, "logging", "Write records of level info.")
    log_warning: bool = option(True, "logging", "Write warnings.")
    log_error: bool = option(True, "logging", "Write errors.")
    log_file: str = option("", "logging", "Write to this file rather than to stderr.")
    access_log: bool = option(False, "logging", "One line for every request.")
    call_log: str = option(
        "",
        "logging",
        "Record every request to a language model in this file, a JSON line each; `penstock calls` "
        "reads it.",
        metavar="FILE",
    )
    call_log_content: bool = option(
        False, "logging", "Record prompts and answers too, not only what they were like."
    )
    call_log_max_bytes: int = option(
        64 << 20,
        "logging",
        "Size at which the record of calls is moved to FILE.1, in the place of the one before.",
        minimum=4096,
    )
