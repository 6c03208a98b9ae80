"""What the code of a model may use of its server, from another process: all questions go there."""

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

from penstock_runtime.datatype import from_wire
from penstock_runtime.dispatch import Dispatch, Serving
from penstock_runtime.isolation.child_link import ChildLink
from penstock_runtime.isolation.child_reports import Reading, Reporter
from penstock_runtime.isolation.frames import Frame, Kind
from penstock_runtime.isolation.values import error_of, parameters_of, request_note
from penstock_runtime.model_services import Control, ModelServices
from penstock_runtime.observability.custom_metrics import (
    CustomKind,
    CustomMetric,
    CustomMetrics,
)
from penstock_runtime.repository.overrides import LoadOverrides
from penstock_runtime.request import InferRequest, InferResponse
from penstock_runtime.stream import ResponseStream
from penstock_runtime.tensor import Tensor
from penstock_runtime.wait_graph import Refusal, WaitGraph


def remote_services(link: ChildLink) -> ModelServices:
    """The services of the server at the other end."""
    dispatch, control = Dispatch(), Control()
    dispatch.bind(partial(_find, link))
    control.bind(_Repository(link))
    reporter = Reporter(link, link.hello.get("calls"))
    return ModelServices(
        dispatch,
        _Metrics(link),
        control,
        _Waits(link, "waits"),
        _Waits(link, "loads"),
        reporter.engines,
        reporter.calls,
        Reading(link) if link.hello.get("reading") else None,
    )


def _find(link: ChildLink, name: str, version: str) -> Serving:
    # As much of one as a model's code needs that calls it; ensembles are put together elsewhere.
    return cast(Serving, RemoteModel(link, link.ask("find", name=name, version=version)))


class RemoteModel:
    """A model of the server, as far as whoever calls it must know."""

    def __init__(self, link: ChildLink, told: Mapping[str, Any]) -> None:
        self._link = link
        self.decoupled = bool(told["decoupled"])
        self.healthy = bool(told["healthy"])
        self.version = told["version"]
        steps = told["steps"]
        made = [SimpleNamespace(model_name=n, model_version=v) for n, v in steps or ()]
        graph = SimpleNamespace(step=made) if steps is not None else None
        self.config = SimpleNamespace(name=told["name"], ensemble_scheduling=graph)

    def submit(self, request: InferRequest, stream: ResponseStream) -> None:
        """Send the request; its answers go to the stream."""
        link, number = self._link, self._link.number()
        link.listen("call", number, partial(self._heard, number, stream))
        link.send(
            Kind.CALL,
            number,
            {"request": request_note(request), **_made_for(request)},
            {tensor.name: tensor.array for tensor in request.inputs},
            {tensor.name: tensor.datatype for tensor in request.inputs},
        )
        stream.on_cancel(partial(self._end, number))

    def _heard(self, number: int, stream: ResponseStream, frame: Frame) -> None:
        note, link = frame.note, self._link
        if "error" in note or "closed" in note:
            link.forget("call", number)
            _ = stream.fail(error_of(note["error"])) if "error" in note else stream.close()
            return
        arrays, words = link.memory.arrays(frame), note["types"]
        outputs = tuple(
            Tensor(name, from_wire(words[name]), tuple(array.shape), array)
            for name, array in arrays.items()
        )
        stream.put(
            InferResponse(
                note["model"],
                note["version"],
                note["id"],
                outputs,
                parameters_of(note["parameters"]),
                note["final"],
                note["empty"],
            )
        )
        if note["final"]:
            return
        if not self._took(number, stream):
            link.add_chore((number, frame), partial(self._took, number, stream))

    def _took(self, number: int, stream: ResponseStream) -> bool:
        """Tell the server to go on, unless the model has enough to read."""
        if stream.cancelled:
            return True
        if not stream.wait_for_room(0.0):
            return False
        self._link.send(Kind.CALL_CREDIT, number, {"count": 1})
        return True

    def _end(self, number: int) -> None:
        self._link.forget("call", number)
        self._link.send(Kind.CALL_END, number)


def _made_for(request: InferRequest) -> Mapping[str, Any]:
    """The request, by its number, whose trace goes on in a call."""
    trace = request.trace
    return {} if trace is None or not trace.parent_id else {"for": trace.parent_id}


class _Repository:
    """Where models come and go: at the server."""

    def __init__(self, link: ChildLink) -> None:
        self._link = link

    def load(self, name: str, overrides: LoadOverrides) -> None:
        """Load or reload; returns once the new version serves."""
        files = dict(overrides.files)
        note: dict[str, Any] = {"files": [[f"file:{path}", len(d)] for path, d in files.items()]}
        if overrides.config_json is not None:
            note["config"] = overrides.config_json
        self._link.ask("load", b"".join(files.values()), name=name, **note)

    def unload(self, name: str, unload_dependents: bool = False) -> None:
        """Take the model out of service."""
        self._link.ask("unload", name=name, dependents=unload_dependents)


class _Waits(WaitGraph):
    """The waits of the server, which counts the instances itself."""

    def __init__(self, link: ChildLink, graph: str) -> None:
        super().__init__()
        self._link = link
        self._graph = graph

    def add_instance(self, model: str) -> None:
        """It knows."""

    def remove_instance(self, model: str) -> None:
        """It knows."""

    def begin(
        self,
        model: str,  # noqa: ARG002 - the server knows who asks
        instance: object,  # noqa: ARG002
        targets: Collection[str],
        name: str = "",  # noqa: ARG002
    ) -> Refusal | None:
        """This instance waits for these; it does not, and why, if it would wait for ever."""
        if not targets:
            return None
        told = self._link.ask("begin", graph=self._graph, targets=sorted(targets))["refused"]
        return None if told is None else Refusal(*told)

    def end(
        self,
        model: str,  # noqa: ARG002
        instance: object,  # noqa: ARG002
        targets: Collection[str],
        name: str = "",  # noqa: ARG002
    ) -> None:
        """It waits no longer."""
        if targets:
            note = {"what": "end", "graph": self._graph, "targets": sorted(targets)}
            self._link.send(Kind.TELL, 0, note)


class _Metric(CustomMetric):
    """One series of the server's: what cannot be done to it is refused here."""

    def __init__(
        self,
        link: ChildLink,
        handle: int,
        family: tuple[str, CustomKind],
        labels: Mapping[str, str],
        bounds: Sequence[float],
    ) -> None:
        super().__init__(*family, labels, bounds)
        self._link = link
        self._handle = handle

    def _tell(self, what: str, value: float) -> None:
        note = {"what": what, "handle": self._handle, "value": float(value)}
        self._link.send(Kind.TELL, 0, note)

    def increment(self, value: float) -> None:
        """Add to a counter (nothing below 0) or a gauge."""
        super().increment(value)
        self._tell("increment", value)

    def set(self, value: float) -> None:
        """Set a gauge."""
        super().set(value)
        self._tell("set", value)

    def observe(self, value: float) -> None:
        """Count a value in a histogram."""
        super().observe(value)
        self._tell("observe", value)

    def value(self) -> float:
        """What a counter or a gauge has come to, whoever else counts it."""
        super().value()
        return float(self._link.ask("value", handle=self._handle)["value"])


class _Metrics(CustomMetrics):
    """The metrics of the server."""

    def __init__(self, link: ChildLink) -> None:
        super().__init__()
        self._link = link

    def declare(self, name: str, kind: CustomKind, help_text: str) -> None:
        """Raise InvalidArgument unless metrics of this name may be of this kind."""
        self._link.ask("declare", name=name, kind=kind, help=help_text)

    def metric(
        self,
        owner: object,  # noqa: ARG002 - the server knows whose they are
        family: tuple[str, CustomKind, str],
        labels: Mapping[str, str],
        bounds: Sequence[float] = (),
    ) -> CustomMetric:
        """The metric with these labels, made if it is not there."""
        name, kind, text = family
        told = self._link.ask(
            "metric", name=name, kind=kind, help=text, labels=dict(labels), bounds=list(bounds)
        )
        return _Metric(self._link, told["handle"], (name, kind), labels, bounds)

    def release(self, owner: object) -> None:
        """The server does so when the model goes."""
