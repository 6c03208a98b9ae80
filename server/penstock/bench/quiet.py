"""What this process does not do while it measures: collect garbage, and sleep longer than asked."""

import contextlib
import gc
from collections.abc import Iterator
from pathlib import Path

_SLACK = Path("/proc/self/timerslack_ns")
_THRESHOLD = 100_000


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """For the time of the block, the garbage collector rests but for a rare look at what is new,
    and waits end when they should (Linux rounds them up by 50 us otherwise).
    """
    before, slack = gc.get_threshold(), _read_slack()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_THRESHOLD, *before[1:])
    _write_slack("1")
    try:
        yield
    finally:
        _write_slack(slack)
        gc.set_threshold(*before)
        gc.unfreeze()


def _read_slack() -> str:
    try:
        return _SLACK.read_text().strip()
    except OSError:
        return ""


def _write_slack(text: str) -> None:
    if text:
        with contextlib.suppress(OSError):
            _SLACK.write_text(text)
