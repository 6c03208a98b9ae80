"""When a model's folder may be loaded: not before nothing in it moves any more.

Pure but for `settled`, which is given its eyes, its clock and its patience.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace

from penstock_runtime.repository.index import ModelFolder, Signature

MAX_LOOKS = 20


class StabilityGate:
    """Admits a folder that is equal over two looks, or in which nothing is younger than `quiet_ns`
    (it was renamed or linked into place as a whole).

    Every look at every folder must pass through here, or "two looks" means nothing.
    """

    def __init__(self, quiet_ns: int) -> None:
        self._quiet_ns = quiet_ns
        self._looks: dict[str, tuple[Signature, str]] = {}
        self._missing: set[str] = set()

    def admits(self, folder: ModelFolder, now_ns: int) -> bool:
        """Whether the folder, seen at wall-clock time `now_ns`, may be loaded."""
        before = self._looks.get(folder.name)
        self._looks[folder.name] = folder.identity
        return before == folder.identity or now_ns - folder.newest_ns >= self._quiet_ns

    def gone(self, known: Iterable[str], present: Collection[str]) -> list[str]:
        """The known names that were missing at this look and at the one before.

        A swap by two renames leaves a moment without the folder; that is no reason to unload.
        """
        missing = {name for name in known if name not in present}
        twice = sorted(missing & self._missing)
        self._missing = missing
        for name in self._looks.keys() - set(present):
            del self._looks[name]
        return twice

    def __repr__(self) -> str:
        return f"<StabilityGate {len(self._looks)} folders, {len(self._missing)} missing>"


def settled(
    look: Callable[[], ModelFolder | None],
    quiet_s: float,
    clock: Callable[[], int],
    wait: Callable[[float], object],
) -> ModelFolder | None:
    """The folder once it is stable; with a problem if it still changes after MAX_LOOKS looks."""
    gate = StabilityGate(int(quiet_s * 1e9))
    folder = look()
    for _ in range(MAX_LOOKS):
        if folder is None or gate.admits(folder, clock()):
            return folder
        wait(quiet_s)
        folder = look()
    return None if folder is None else replace(folder, problem="the folder is still being written")
