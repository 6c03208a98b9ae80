"""Options of how requests are traced, and where the traces go."""

from dataclasses import dataclass

from penstock.options.flag import option


@dataclass(frozen=True)
class TracingOptions:
    """Traces of single requests."""

    trace_config: tuple[str, ...] = option(
        (),
        "tracing",
        "Of all traces: level=OFF, TIMESTAMPS or TENSORS, rate=N (one of N requests), count=N "
        "(-1: any number), mode=triton or opentelemetry. Of a mode: triton,file=PATH, "
        "triton,log-frequency=N, opentelemetry,url=URL, opentelemetry,resource=KEY=VALUE, "
        "opentelemetry,bsp_max_queue_size=N, bsp_schedule_delay=MS, bsp_max_export_batch_size=N. "
        "May be repeated, in the environment separated by ;.",
        metavar="[MODE,]KEY=VALUE",
        separator=";",
    )
