"""What a scrape learns of the HTTP/2 transport."""

from collections.abc import Sequence

from penstock.transport.http2.hub import Hub
from penstock_runtime.observability.metrics import Family, Sample

_DEFENCES = "penstock_http2_defences_total"


def transport_families(hub: Hub) -> Sequence[Family]:
    """Connections, streams, bytes, GOAWAYs, and every defence by its name; from any thread."""
    # The loop may add connections and names meanwhile. A copy is made at one go, without a turn for
    # another thread; going through what the loop changes is not.
    connections = hub.connections.copy()
    tallies = hub.tallies.copy()
    streams, bytes_in, bytes_out = 0, hub.past_in, hub.past_out
    for connection in connections:
        streams += len(connection.link.streams)
        bytes_in += connection.bytes_in
        bytes_out += connection.bytes_out
        tallies.update(connection.link.tallies.copy())
    counts = hub.counts.copy()
    accepted, goaways = counts.pop("connections", 0), counts.pop("goaways", 0)
    tallies.update(counts)
    return (
        _one("penstock_http2_connections", "gauge", "Open connections", len(connections)),
        _one("penstock_http2_connections_total", "counter", "Connections accepted", accepted),
        _one("penstock_http2_streams", "gauge", "Open streams", streams),
        _one(
            "penstock_http2_arriving_bytes",
            "gauge",
            "Bytes of large messages that are being received or wait to be read",
            hub.arrivals.used,
        ),
        _one("penstock_http2_received_bytes_total", "counter", "Bytes received", bytes_in),
        _one("penstock_http2_sent_bytes_total", "counter", "Bytes sent", bytes_out),
        _one("penstock_http2_goaways_total", "counter", "GOAWAY frames sent", goaways),
        Family(
            _DEFENCES,
            "counter",
            "What was done against peers that ask too much or are silent, by name",
            tuple(Sample(tallies[name], {"name": name}) for name in sorted(tallies)),
        ),
    )


def _one(name: str, kind: str, text: str, value: float) -> Family:
    return Family(name, kind, text, (Sample(value),))  # type: ignore[arg-type]
