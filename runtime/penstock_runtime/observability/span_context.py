"""The place of a span in a trace that crosses processes, as W3C's Trace Context writes it into
`traceparent` and `tracestate`.
"""

import json
import re
import secrets
from collections.abc import Mapping
from typing import NamedTuple

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"
UNSAMPLED = "-00"
"""How the `traceparent` of a caller ends that does not trace."""
LONGEST_STATE = 512

_SAMPLED = 1
# Members of `key=value`, printable, with commas between them.
_STATE = re.compile(r"[a-z0-9][a-z0-9_*/@-]*=[!-+\--<>-~]+(,[a-z0-9][a-z0-9_*/@-]*=[!-+\--<>-~]+)*")
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class SpanContext(NamedTuple):
    """A span that others may be children of; ids are lower-case hexadecimal, as on the wire."""

    trace_id: str
    span_id: str
    sampled: bool = True
    state: str = ""

    @property
    def traceparent(self) -> str:
        """What a call that this span makes carries."""
        return f"00-{self.trace_id}-{self.span_id}-{self.sampled:02x}"

    @property
    def carrier(self) -> str:
        """The same as Triton's Python models get it: a JSON object of the two headers."""
        headers = {TRACEPARENT: self.traceparent}
        if self.state:
            headers[TRACESTATE] = self.state
        return json.dumps(headers)

    def child(self) -> "SpanContext":
        """A new span of the same trace."""
        return self._replace(span_id=secrets.token_hex(8))


def new_root() -> SpanContext:
    """The first span of a new trace."""
    return SpanContext(secrets.token_hex(16), secrets.token_hex(8))


def caller_context(metadata: Mapping[str, str]) -> SpanContext | None:
    """The caller's span, if the metadata of its call name one; what is malformed names none."""
    text = metadata.get(TRACEPARENT)
    if text is None:
        return None
    found = _PARENT.fullmatch(text)
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    # The first version has four parts; later ones may append some, and ff will never be one.
    if version == "ff" or (version == "00" and more):
        return None
    if not int(trace_id, 16) or not int(span_id, 16):
        return None
    state = metadata.get(TRACESTATE, "")
    kept = len(state) <= LONGEST_STATE and _STATE.fullmatch(state)
    sampled = bool(int(flags, 16) & _SAMPLED)
    return SpanContext(trace_id, span_id, sampled, state if kept else "")
