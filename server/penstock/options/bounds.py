"""Options of the response cache, and of the bounds beyond which the answer is a refusal."""

from dataclasses import dataclass

from penstock.options.flag import option


@dataclass(frozen=True)
class CacheOptions:
    """Responses that are kept and given again."""

    cache_config: tuple[str, ...] = option(
        (),
        "cache",
        "local,size=BYTES switches the response cache on, ttl=SECONDS bounds the age of what it "
        "gives; may be repeated.",
        metavar="local,KEY=VALUE",
    )
    response_cache_byte_size: int = option(
        0, "cache", "The old name of --cache-config=local,size=BYTES (0: no cache).", minimum=0
    )


@dataclass(frozen=True)
class LimitOptions:
    """Bounds beyond which the answer is immediate and retryable."""

    max_inflight_bytes: int = option(
        0,
        "limits",
        "Bytes of requests in flight, all together (0: a quarter of the memory).",
        minimum=0,
    )
    grpc_max_concurrent_rpcs: int = option(
        0, "limits", "Calls at the same time; more are refused (0: no limit).", minimum=0
    )
    grpc_max_concurrent_streams: int = option(
        0, "limits", "Calls at the same time on one connection; more wait (0: any).", minimum=0
    )
    grpc_max_connections: int = option(
        0,
        "limits",
        "Connections at the same time, newer ones are closed (0: as many as there are file "
        "descriptors, less a reserve; --transport=http2 only).",
        minimum=0,
    )
    stream_max_inflight: int = option(
        256, "limits", "Requests in flight on one stream; more are not read.", minimum=1
    )
    stream_max_unsent_bytes: int = option(
        64 << 20, "limits", "Bytes of responses that wait on one stream.", minimum=1
    )
    stream_stall_secs: float = option(
        30.0,
        "limits",
        "A stream whose reader takes nothing for so long while responses wait is ended.",
        minimum=0.05,
        metavar="SECONDS",
    )
    max_health_watchers: int = option(1024, "limits", "Open Health/Watch calls.", minimum=0)
