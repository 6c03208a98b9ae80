"""The threads of the repository: loads that run side by side, and the way out of models that were
replaced or unloaded.
"""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from penstock_runtime.backends.host import release_memory
from penstock_runtime.repository.loader import LoadableModel

_log = logging.getLogger("penstock.repository")

# So many models may be on their way out before the next one waits: memory is bounded by it.
MAX_RETIRING = 16
# A full collection stops every thread for a moment, so frequent reloads share one.
COLLECT_EVERY_S = 1.0
_MIB = 1 << 20


def run_all(jobs: Sequence[Callable[[], None]], threads: int, stopping: threading.Event) -> None:
    """Run the jobs, `threads` at a time, and return when all are done.

    Returns early when `stopping` is set; jobs under way then end in their own time.
    """
    waiting = deque(jobs)

    def work() -> None:
        while waiting and not stopping.is_set():
            try:
                job = waiting.popleft()
            except IndexError:
                return
            try:
                job()
            except Exception:
                _log.exception("a job of the model repository failed")

    workers = [
        # Daemons, because a model that hangs in its load must not keep the process alive.
        threading.Thread(target=work, name=f"model-load-{i}", daemon=True)
        for i in range(min(threads, len(jobs)))
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        while worker.is_alive() and not stopping.is_set():
            worker.join(0.05)


class Retirement:
    """Drains and stops models that no new request can reach, and says what memory came back."""

    def __init__(self, drain_timeout_s: float) -> None:
        self._drain_timeout_s = drain_timeout_s
        self._room = threading.Semaphore(MAX_RETIRING)
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._collected_s = 0.0
        self._collector_waits = False
        self._hurry = threading.Event()

    def retire(
        self,
        name: str,
        models: Sequence[LoadableModel],
        *,
        replaced: bool,
        then: Callable[[], None],
        timeout_s: float | None = None,
    ) -> threading.Thread:
        """Drain (at most `timeout_s`, else the general limit), stop, call `then`; in the thread
        that is returned.
        """
        limit = self._drain_timeout_s if timeout_s is None else timeout_s
        has_room = self._room.acquire(timeout=self._drain_timeout_s)
        leaving = list(models)

        def run() -> None:
            try:
                self._retire(name, leaving, limit, replaced, then)
            finally:
                if has_room:
                    self._room.release()
                with self._lock:
                    self._threads.discard(threading.current_thread())

        thread = threading.Thread(target=run, name=f"model-retire-{name}", daemon=True)
        with self._lock:
            self._threads.add(thread)
        thread.start()
        return thread

    def join(self, timeout_s: float) -> bool:
        """Wait until everything on its way out is out; False if time ran out."""
        deadline = time.monotonic() + timeout_s
        self._hurry.set()
        with self._lock:
            threads = tuple(self._threads)
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def __len__(self) -> int:
        return len(self._threads)

    def __repr__(self) -> str:
        return f"<Retirement of {len(self)}>"

    def _retire(
        self,
        name: str,
        leaving: list[LoadableModel],
        limit_s: float,
        replaced: bool,
        then: Callable[[], None],
    ) -> None:
        deadline = time.monotonic() + limit_s
        before = resident_bytes()
        versions: list[int] = []
        account: dict[str, int] = {}
        while leaving:
            # Popped, so that the last reference is gone before memory is counted.
            model = leaving.pop(0)
            versions.append(model.version)
            _add_account(account, model)
            _end(name, model, max(0.0, deadline - time.monotonic()))
            del model
        then()
        self._collect(replaced)
        _log.info(
            "model '%s': version %s %s; it held %s; resident memory %s",
            name,
            ",".join(map(str, versions)),
            "was replaced" if replaced else "was unloaded",
            ", ".join(f"{_mib(size)} on {where}" for where, size in sorted(account.items()))
            or "no counted memory",
            _change(before, resident_bytes()),
        )

    def _collect(self, replaced: bool) -> None:
        with self._lock:
            if replaced and self._collector_waits:
                return
            self._collector_waits = replaced
        if replaced:
            self._hurry.wait(max(0.0, self._collected_s + COLLECT_EVERY_S - time.monotonic()))
        with self._lock:
            self._collector_waits = False
            self._collected_s = time.monotonic()
        release_memory()


def resident_bytes() -> int:
    """Resident memory of this process, 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_bytes().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _add_account(account: dict[str, int], model: LoadableModel) -> None:
    try:
        for where, size in model.memory_bytes().items():
            account[where] = account.get(where, 0) + size
    except Exception:
        _log.exception("model '%s' cannot say what memory it holds", model.config.name)


def _end(name: str, model: LoadableModel, limit_s: float) -> None:
    try:
        if not model.drain(limit_s):
            _log.warning(
                "model '%s': version %d still had requests after %.1f s, it is stopped all the "
                "same",
                name,
                model.version,
                limit_s,
            )
        model.stop()
    except Exception:
        _log.exception("model '%s': version %d did not stop", name, model.version)


def _mib(size: int) -> str:
    return f"{size / _MIB:.1f} MiB"


def _change(before: int, after: int) -> str:
    back = before - after
    verb = "given back" if back >= 0 else "more than before"
    return f"{_mib(before)} -> {_mib(after)} ({_mib(abs(back))} {verb})"
