"""An exception of a model as an error for the caller: the model's own first line, without paths;
the traceback goes to the log only.
"""

import logging
import re

from penstock_runtime.backends.lost_device import gpu_lost, lost_device
from penstock_runtime.errors import FailureReason, Internal, PenstockError
from penstock_runtime.exhausted import memory_exhausted, out_of_memory

_log = logging.getLogger("penstock.model")
MESSAGE_LIMIT = 512
# At least two components, and not inside a word, a URL or a fraction such as "1/2".
_PATH = re.compile(r"(?<![\w:/.])~?(?:/[\w.@+\-]+){2,}/?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


def summary(error: BaseException) -> str:
    """The first line of the exception's message: no paths, no control characters, at most 512
    characters.
    """
    text = str(error).strip()
    line = text.splitlines()[0] if text else ""
    # A bare key or nothing at all would not tell a reader what happened.
    if not line or isinstance(error, LookupError | SyntaxError):
        line = f"{type(error).__name__}: {line}" if line else type(error).__name__
    clean = _CONTROL.sub(" ", _PATH.sub("<path>", line))
    return clean if len(clean) <= MESSAGE_LIMIT else clean[: MESSAGE_LIMIT - 3] + "..."


def execution_failure(error: BaseException, model: str) -> PenstockError:
    """What the caller of an execution gets that raised something else than a PenstockError:
    Internal, ResourceExhausted where there was no memory left for it, InstanceDied where nothing
    can be executed on its GPU any more.
    """
    _log.error("model '%s' failed to execute", model, exc_info=error)
    if out_of_memory(error):
        return memory_exhausted(f"model '{model}' ran out of memory")
    lost = lost_device(error)
    if lost:
        return gpu_lost(f"model '{model}'", lost)
    return Internal(
        summary(error), reason="MODEL_FAILED", failure=FailureReason.BACKEND, scheduled=True
    )


def load_failure(error: BaseException, model: str, doing: str) -> Internal:
    """What the load of a model ends with when its code raises in `doing` (for instance warmup)."""
    _log.error("model '%s' failed in %s", model, doing, exc_info=error)
    kind = type(error).__name__
    text = summary(error)
    text = text if text.startswith(kind) else f"{kind}: {text}"
    return Internal(
        f"{doing} of model '{model}' failed: {text}",
        reason="LOAD_FAILED",
        failure=FailureReason.BACKEND,
    )


def log_close_failure(error: BaseException, model: str, doing: str) -> None:
    """A model that fails to end ends all the same; the log says what it raised."""
    _log.error("model '%s' failed in %s", model, doing, exc_info=error)
