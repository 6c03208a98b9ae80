"""From a name and a version to the model that serves it: the look-up that every request makes.

Readers take no lock: each change puts a new dictionary in the place of the old one.
"""

import threading
from collections.abc import Mapping
from typing import Generic

from penstock_runtime.errors import InvalidArgument, NotFound, PenstockError, Unavailable, Violation
from penstock_runtime.repository.index import MAX_VERSION
from penstock_runtime.repository.lifecycle import Lifecycle, ModelState
from penstock_runtime.repository.loader import ModelT

MAX_SHOWN = 128
RETRY_AFTER_NS = 1_000_000_000


class Routes(Generic[ModelT]):
    """Which model serves which name and version; why not, when none does, the lifecycle knows."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._lock = threading.Lock()
        self._by_name: Mapping[str, Mapping[str, ModelT]] = {}

    def get(self, name: str, version: str) -> ModelT:
        """The model that serves; `version` is "" for the highest one that does.

        NotFound, Unavailable or InvalidArgument say why there is none.
        """
        try:
            return self._by_name[name][version]
        except KeyError:
            raise self._refusal(name, version) from None

    def publish(self, name: str, models: Mapping[int, ModelT]) -> None:
        """Let the name stand for these versions and no others, all at once; for none if empty."""
        with self._lock:
            by_name = {key: value for key, value in self._by_name.items() if key != name}
            if models:
                versions = {str(version): models[version] for version in sorted(models)}
                by_name[name] = {**versions, "": models[max(models)]}
            self._by_name = by_name

    def models(self) -> list[ModelT]:
        """Every model that serves, by name and version."""
        return [
            model
            for _, versions in sorted(self._by_name.items())
            for version, model in versions.items()
            if version
        ]

    def _refusal(self, name: str, version: str) -> PenstockError:
        problem = version_problem(version) if version else ""
        if problem:
            return InvalidArgument(
                "failed to get model version from specified version string "
                f"'{shown(version)}' (details: {problem}), version should be an integral value > 0"
            )
        known = self._lifecycle.versions(name)
        unknown = f"Request for unknown model: '{shown(name)}'"
        if several := self._ambiguous(name):
            return InvalidArgument(
                f"{unknown} is ambiguous, expected one of {', '.join(several)}",
                reason="MODEL_AMBIGUOUS",
            )
        if not known:
            return NotFound(f"{unknown} is not found", reason="MODEL_NOT_FOUND")
        if not version:
            if any(status.state is ModelState.LOADING for status in known.values()):
                return _not_ready(f"{unknown} is not at ready state", "")
            return NotFound(f"{unknown} has no available versions", reason="MODEL_NOT_LOADED")
        status = known.get(int(version))
        if status is None:
            return NotFound(f"{unknown} version {version} is not found", reason="MODEL_NOT_FOUND")
        return _not_ready(f"{unknown} version {version} is not at ready state", status.reason)

    def _ambiguous(self, name: str) -> list[str]:
        """The models that have this name in a namespace each."""
        return sorted(served for served in self._by_name if served.endswith(f"::{name}"))

    def __repr__(self) -> str:
        return f"<Routes to {len(self._by_name)} models>"


def version_problem(version: str) -> str:
    """What is wrong with a request's version, "" when it is a positive integer."""
    if not (version.isascii() and version.isdecimal()):
        return "not a decimal number"
    if version.startswith("0"):
        return "zero or a leading zero"
    return "out of range" if len(version) > 19 or int(version) > MAX_VERSION else ""


def check_model_name(name: str) -> None:
    """Raise InvalidArgument for a name that no model's folder can have."""
    if not name.strip():
        raise InvalidArgument(
            "Model name cannot be empty. Please enter a valid name to deploy.",
            reason="MODEL_NAME_INVALID",
        )
    if name in (".", "..") or "/" in name or "\\" in name or not name.isprintable():
        raise InvalidArgument(
            f"invalid model name '{shown(name)}', model name must not contain path traversal "
            "characters",
            reason="MODEL_NAME_INVALID",
        )


def shown(text: str) -> str:
    """A caller's text as an error repeats it: cut, and without what does not print."""
    cut = text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "..."
    return cut if cut.isprintable() else ascii(cut)[1:-1]


def _not_ready(text: str, reason: str) -> Unavailable:
    violations = (Violation("model_version", reason),) if reason else ()
    return Unavailable(
        text, reason="MODEL_NOT_READY", retry_after_ns=RETRY_AFTER_NS, violations=violations
    )
