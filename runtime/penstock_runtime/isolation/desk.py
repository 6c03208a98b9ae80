"""What the process of a model asks of the server: other models, whether they are there, that they
be loaded, metrics of its own; and what it answers to its requests.

Nothing here blocks whoever reads what the process says: what takes its time has a thread.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import astuple
from functools import partial
from types import MappingProxyType
from typing import Any

from penstock_runtime.backends.base import ModelSource
from penstock_runtime.errors import (
    InstanceDied,
    Internal,
    InvalidArgument,
    PenstockError,
    ResourceExhausted,
)
from penstock_runtime.isolation.frames import BrokenProtocol, Frame, Kind
from penstock_runtime.isolation.life import Life
from penstock_runtime.isolation.server_calls import ServerCalls
from penstock_runtime.isolation.server_reports import ServerReports, ToldEngine
from penstock_runtime.isolation.tasks import OpenTasks
from penstock_runtime.isolation.values import count_of, error_note, list_of, text_of
from penstock_runtime.model_services import ModelServices
from penstock_runtime.observability.custom_metrics import CustomKind, CustomMetric
from penstock_runtime.repository.overrides import parse_load_parameters
from penstock_runtime.wait_graph import WaitGraph, model_key

MOST_LOADS = 16
MOST_METRICS = 4096
_KINDS: Mapping[str, CustomKind] = MappingProxyType(
    {"counter": "counter", "gauge": "gauge", "histogram": "histogram"}
)
Answer = Mapping[str, Any]


def instance_key(source: ModelSource) -> str:
    """What a model is called among those that wait for each other."""
    return model_key(source.config.name, source.version)


class ServerDesk:
    """One for each life of a process; `owner` is the instance, which outlives it, `name` what it
    is called, `engine` what is told of its engine.
    """

    def __init__(
        self,
        life: Life,
        tasks: OpenTasks,
        owner: object,
        source: ModelSource,
        name: str = "",
        engine: ToldEngine | None = None,
    ) -> None:
        self._life = life
        self._tasks = tasks
        self._owner = owner
        self._name = name
        self._source = source
        self._services = source.services
        self._calls = ServerCalls(life, source.services, tasks)
        self._reports = ServerReports(life, source, engine or ToldEngine(source, name))
        self._lock = threading.Lock()
        self._waits: list[tuple[str, frozenset[str]]] = []
        self._loads = 0
        self._closed = False
        self._metrics: list[CustomMetric] = []
        self._answers: Mapping[str, Callable[[ModelServices, Frame], Answer]] = {
            "find": self._find,
            "begin": self._begin,
            "declare": self._declare,
            "metric": self._metric,
            "value": self._value,
        }

    def handle(self, frame: Frame) -> bool:
        """Do what a frame says; False if it says nothing that is known."""
        if frame.kind is Kind.ASK:
            self._ask(frame)
        elif frame.kind is Kind.TELL:
            self._tell(frame)
        else:
            others = (self._tasks, self._calls, self._reports)
            return any(each.handle(frame) for each in others)
        return True

    def close(self, error: InstanceDied) -> None:
        """The process is gone: nothing waits for anything on its behalf any more."""
        self._reports.close()
        lost = self._tasks.close(error)
        self._calls.close()
        self._reports.record_lost(lost, error)
        with self._lock:
            self._closed = True
            waits, self._waits = self._waits, []
        for graph, targets in waits:
            self._graph(graph).end(self._key(graph), self._owner, targets, self._name)

    # -- questions ---------------------------------------------------------------------------------

    def _ask(self, frame: Frame) -> None:
        what = text_of(frame.note.get("what"), 32)
        if what in ("load", "unload"):
            self._later(frame, what)
            return
        answer = self._answers.get(what)
        if answer is None:
            raise BrokenProtocol(f"a question is {what!r}, which there is not")
        self._reply(frame, partial(answer, self._known(), frame))

    def _known(self) -> ModelServices:
        if self._services is None:
            raise BrokenProtocol("a server is asked, and there is none")
        return self._services

    def _reply(self, frame: Frame, answer: Callable[[], Answer]) -> None:
        try:
            note = answer()
        except BrokenProtocol:
            raise
        except PenstockError as error:
            note = {"error": error_note(error)}
        self._life.post(lambda: self._life.send(Kind.REPLY, frame.number, note))

    def _find(self, services: ModelServices, frame: Frame) -> Answer:
        name, version = text_of(frame.note.get("name")), text_of(frame.note.get("version"))
        model = services.dispatch.model(name, version)
        config = getattr(model, "config", None)
        graph = config.ensemble_scheduling if config is not None else None
        steps = [[s.model_name, s.model_version] for s in graph.step] if graph else None
        return {
            "name": config.name if config is not None else name,
            "version": str(getattr(model, "version", "")),
            "decoupled": model.decoupled,
            "healthy": bool(getattr(model, "healthy", True)),
            "steps": steps,
        }

    # -- what waits for what -----------------------------------------------------------------------

    def _graph(self, name: str) -> WaitGraph:
        services = self._known()
        if name not in ("waits", "loads"):
            raise BrokenProtocol(f"waits are of a kind {name[:16]!r} that there is not")
        return services.waits if name == "waits" else services.loads

    def _key(self, graph: str) -> str:
        return instance_key(self._source) if graph == "waits" else self._source.config.name

    def _wait_of(self, frame: Frame) -> tuple[str, frozenset[str]]:
        targets = frozenset(map(text_of, list_of(frame.note.get("targets"), 256)))
        return text_of(frame.note.get("graph"), 16), targets

    def _begin(self, _services: ModelServices, frame: Frame) -> Answer:
        graph, targets = wait = self._wait_of(frame)
        refusal = self._graph(graph).begin(self._key(graph), self._owner, targets, self._name)
        if refusal is None:
            with self._lock:
                closed = self._closed or len(self._waits) >= MOST_METRICS
                if not closed:
                    self._waits.append(wait)
            if closed:
                self._graph(graph).end(self._key(graph), self._owner, targets, self._name)
        return {"refused": None if refusal is None else list(astuple(refusal))}

    def _end(self, frame: Frame) -> None:
        graph, targets = wait = self._wait_of(frame)
        with self._lock:
            if wait not in self._waits:
                return
            self._waits.remove(wait)
        self._graph(graph).end(self._key(graph), self._owner, targets, self._name)

    # -- loading -----------------------------------------------------------------------------------

    def _later(self, frame: Frame, what: str) -> None:
        services = self._known()
        with self._lock:
            many = self._loads >= MOST_LOADS
            self._loads += not many
        if many:
            self._reply(frame, _too_many)
            return
        thread = threading.Thread(
            target=self._load, args=(services, frame, what), name="penstock-asked-load", daemon=True
        )
        thread.start()

    def _load(self, services: ModelServices, frame: Frame, what: str) -> None:
        def doing() -> Answer:
            repository, name = services.control.repository, text_of(frame.note.get("name"))
            if what == "unload":
                repository.unload(name, bool(frame.note.get("dependents")))
            else:
                repository.load(name, parse_load_parameters(_load_parameters(frame)))
            return {}

        try:
            self._reply(frame, doing)
        except BrokenProtocol as broken:
            self._life.accuse(f"broke the protocol ({broken.message})")
        except Exception:
            self._reply(frame, _failed)
        finally:
            with self._lock:
                self._loads -= 1

    # -- metrics -----------------------------------------------------------------------------------

    def _family(self, frame: Frame) -> tuple[str, CustomKind, str]:
        kind = _KINDS.get(text_of(frame.note.get("kind")))
        if kind is None:
            raise BrokenProtocol("a metric is of a kind that there is not")
        return text_of(frame.note.get("name")), kind, text_of(frame.note.get("help"))

    def _declare(self, services: ModelServices, frame: Frame) -> Answer:
        services.metrics.declare(*self._family(frame))
        return {}

    def _metric(self, services: ModelServices, frame: Frame) -> Answer:
        labels = frame.note.get("labels")
        if not isinstance(labels, dict) or len(labels) > 256:
            raise BrokenProtocol("the labels of a metric are none")
        texts = {text_of(name): text_of(value) for name, value in labels.items()}
        bounds = [_real(bound) for bound in list_of(frame.note.get("bounds"), 1024)]
        metric = services.metrics.metric(self._owner, self._family(frame), texts, bounds)
        if metric in self._metrics:
            return {"handle": self._metrics.index(metric)}
        if len(self._metrics) >= MOST_METRICS:
            raise ResourceExhausted(f"a process has {MOST_METRICS} metrics already")
        self._metrics.append(metric)
        return {"handle": len(self._metrics) - 1, "bounds": list(metric.bounds)}

    def _handled(self, frame: Frame) -> CustomMetric:
        handle = count_of(frame.note.get("handle"))
        if handle >= len(self._metrics):
            raise BrokenProtocol("a metric was never made")
        return self._metrics[handle]

    def _value(self, _services: ModelServices, frame: Frame) -> Answer:
        return {"value": self._handled(frame).value()}

    def _tell(self, frame: Frame) -> None:
        what = text_of(frame.note.get("what"), 32)
        if what == "end":
            self._end(frame)
            return
        metric, value = self._handled(frame), _real(frame.note.get("value"))
        try:
            if what == "increment":
                metric.increment(value)
            elif what == "set":
                metric.set(value)
            elif what == "observe":
                metric.observe(value)
            else:
                raise BrokenProtocol(f"{what!r} is said, which is nothing")
        except InvalidArgument:
            # Its own side has said so already to whoever deserves to know.
            return


def _load_parameters(frame: Frame) -> dict[str, bool | int | str | bytes]:
    """What a load is asked with: texts of the note, files from the data."""
    parameters: dict[str, bool | int | str | bytes] = {}
    if "config" in frame.note:
        parameters["config"] = text_of(frame.note["config"], 4 << 20)
    at = 0
    for item in list_of(frame.note.get("files", []), 4096):
        pair = list_of(item, 2)
        if len(pair) != 2:
            raise BrokenProtocol("a file has no name or no size")
        name, size = pair
        end = at + count_of(size)
        if end > len(frame.data):
            raise BrokenProtocol("a file does not lie in its message")
        parameters[text_of(name)] = bytes(frame.data[at:end])
        at = end
    return parameters


def _real(value: Any) -> float:
    if type(value) not in (int, float):
        raise BrokenProtocol("a value of a metric is no number")
    try:
        return float(value)
    except OverflowError:
        raise BrokenProtocol("a value of a metric is no number") from None


def _too_many() -> Answer:
    raise ResourceExhausted(f"{MOST_LOADS} loads are asked for by one process already")


def _failed() -> Answer:
    raise Internal("the load failed")
