"""What this process does not do while it measures: collect garbage, and sleep longer than asked."""

import contextlib
import gc
from collections.abc import Iterator
from pathlib import Path

_SLACK = Path("/proc/self/timerslack_ns")
_THRESHOLD = 100_000
# Python 3.12 has some hundred objects frozen from its start; who froze more than that meant it.
_FROZEN_BY_PYTHON = 1_000


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """For the time of the block, the garbage collector rests but for a rare look at what is new,
    and waits end when they should (Linux rounds them up by 50 us otherwise).
    """
    before, slack = gc.get_threshold(), _read_slack()
    gc.collect()
    # What a caller froze would thaw with what is frozen here, so with such a caller nothing is.
    ours = gc.get_freeze_count() <= _FROZEN_BY_PYTHON
    if ours:
        gc.freeze()
    gc.set_threshold(_THRESHOLD, *before[1:])
    _write_slack("1")
    try:
        yield
    finally:
        _write_slack(slack)
        gc.set_threshold(*before)
        if ours:
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
