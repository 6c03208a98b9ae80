"""What the HTTP/2 server is told; names, units and defaults are those of Triton's flags where it
has the flag.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from penstock.transport.tls import TlsFiles

COMPRESSION_LEVELS: Mapping[str, int] = {"none": 0, "low": 1, "medium": 6, "high": 9}
"""What zlib calls them."""
MS = 1_000_000
S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Http2Options:
    """`addresses` are `host:port` or `unix:/path`; port 0 takes a free one. A limit of 0 means
    none, or as many as can be: `max_connections` as there are descriptors to spare,
    `max_concurrent_streams` the limit of the core.
    """

    addresses: tuple[str, ...]
    reuse_port: bool = False
    tls: TlsFiles | None = None
    keepalive_time_ms: int = 7_200_000
    keepalive_timeout_ms: int = 20_000
    keepalive_permit_without_calls: bool = False
    max_pings_without_data: int = 2
    min_recv_ping_interval_without_data_ms: int = 300_000
    max_ping_strikes: int = 2
    max_connection_idle_ms: int = 0
    max_connection_age_ms: int = 0
    max_connection_age_grace_ms: int = 0
    handshake_timeout_ms: int = 20_000
    max_connections: int = 0
    max_concurrent_streams: int = 0
    max_concurrent_rpcs: int = 0
    max_message_bytes: int = (1 << 31) - 1
    max_arriving_bytes: int = 1 << 30
    """Of large messages that are being received or wait to be read, on all connections."""
    stream_stall_s: float = 30.0
    compression_level: str = "none"
