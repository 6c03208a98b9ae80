"""What an operator decides about the repository."""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from penstock_runtime.errors import InvalidArgument
from penstock_runtime.repository.index import is_clutter

ALL_MODELS = "*"


class ControlMode(Enum):
    """Who says what is loaded: nobody after the start, the files, or the caller."""

    NONE = "none"
    POLL = "poll"
    EXPLICIT = "explicit"


@dataclass(frozen=True, slots=True)
class RepositoryOptions:
    """Where models lie and how they are loaded.

    `startup_models` is for the explicit mode, "*" for all; `model_name` names a root that is itself
    one model; `model_config_name` picks configs/<name>.pbtxt. A folder that changed less than
    `settle_seconds` before the start (`load_settle_seconds` before a load call) is looked at again.
    With `namespaces` a name may be in several roots. `drain_timeout_s` bounds how long requests may
    go on in a model that was replaced or unloaded.
    """

    roots: tuple[Path, ...]
    control_mode: ControlMode = ControlMode.NONE
    poll_seconds: float = 15.0
    startup_models: tuple[str, ...] = ()
    load_threads: int = 4
    load_retries: int = 0
    model_name: str = ""
    model_config_name: str = ""
    drain_timeout_s: float = 30.0
    settle_seconds: float = 0.5
    namespaces: bool = False
    load_settle_seconds: float = 0.05

    def __post_init__(self) -> None:
        for field in ("poll_seconds", "load_threads", "drain_timeout_s"):
            if not getattr(self, field) > 0:
                raise InvalidArgument(f"{field} is {getattr(self, field)}, expected more than 0")
        if self.load_retries < 0:
            raise InvalidArgument(f"load_retries is {self.load_retries}, expected 0 or more")
        if self.startup_models and self.control_mode is not ControlMode.EXPLICIT:
            raise InvalidArgument(
                "models to load at the start can be named in the explicit mode only, the mode is "
                f"{self.control_mode.value}"
            )
        for field in ("model_name", "model_config_name"):
            self._check_component(field)

    def _check_component(self, field: str) -> None:
        value = getattr(self, field)
        if value and (is_clutter(value) or "/" in value or len(value.encode()) > 200):
            raise InvalidArgument(f"{field} is {value[:80]!r}, expected the name of a folder")
