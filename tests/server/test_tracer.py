"""Who is traced while settings change, and that nobody pays for it while nothing is."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes_server import FakeCall, FakeShelf, echo_model

from penstock.admission import Admission
from penstock.config import ServerOptions
from penstock.observer import trace_id_of
from penstock.services import Services, _trace, build_services
from penstock.trace_config import TraceConfig
from penstock.trace_settings import TraceValues
from penstock.tracer import Tracer, begin, open_tracer
from penstock.transport.base import Refusal
from penstock_protos.inference import TraceSettingRequest, TraceSettingResponse
from penstock_runtime.core import InferenceCore
from penstock_runtime.errors import FailedPrecondition, InvalidArgument, Status
from penstock_runtime.observability.trace_file import TraceFile
from penstock_runtime.observability.trace_level import Level
from penstock_runtime.observability.trace_writer import TraceWriter
from penstock_runtime.request import InferRequest

NONE: Mapping[str, str] = {}
ON = Level.TIMESTAMPS
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"


class Nowhere:
    """A sink that keeps nothing."""

    def write(self, traces: object) -> None:
        """Nothing is kept."""

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is open."""

    def abandon(self) -> None:
        """Nothing takes long."""


@pytest.fixture(scope="module")
def writers() -> Iterator[dict[str, TraceWriter]]:
    made = {mode: TraceWriter(Nowhere()) for mode in ("triton", "opentelemetry")}
    yield made
    for writer in made.values():
        writer.close(10)


def tracer_of(writers: dict[str, TraceWriter], values: TraceValues) -> Tracer:
    return Tracer(TraceConfig(values), writers)


def chosen(
    tracer: Tracer, number: int, model: str = "m", metadata: Mapping[str, str] = NONE
) -> int:
    call = FakeCall(metadata=metadata)
    return sum(tracer.sample(model, call) is not None for _ in range(number))


@given(st.integers(1, 9), st.integers(-1, 9), st.integers(0, 40), st.integers(0, 40))
def test_models_without_settings_share_one_count_and_others_have_their_own(
    rate: int, limit: int, one: int, two: int
) -> None:
    """What is left is told as the setting's value."""
    writer = TraceWriter(Nowhere())
    tracer = Tracer(TraceConfig(TraceValues(ON, rate, limit)), {"triton": writer})
    tracer.change({"trace_rate": ("1",)}, "own")

    shared = chosen(tracer, one, "a") + chosen(tracer, two, "b")
    own = chosen(tracer, 20, "own")

    due = (one + two) // rate
    assert shared == (due if limit < 0 else min(due, limit))
    assert own == (20 if limit < 0 else min(20, limit))
    assert tracer.texts()["trace_count"] == (str(-1 if limit < 0 else limit - shared),)
    writer.close(10)


def test_a_change_of_something_else_leaves_the_count_as_far_as_it_was(
    writers: dict[str, TraceWriter],
) -> None:
    """A count that is said again begins again, for those who have none of their own."""
    tracer = tracer_of(writers, TraceValues(ON, 1, 10))
    tracer.change({"trace_count": ("6",)}, "own")
    tracer.change({"trace_rate": ("1",)}, "other")
    spent = {model: chosen(tracer, 4, model) for model in ("", "own", "other")}

    tracer.change({"trace_rate": ("2",)})
    left = [tracer.texts(model)["trace_count"] for model in ("", "own", "other")]
    tracer.change({"trace_count": ("10",)})
    again = [tracer.texts(model)["trace_count"] for model in ("", "own", "other")]

    assert spent == {"": 4, "own": 4, "other": 4}
    assert left == [("6",), ("2",), ("6",)]
    assert again == [("10",), ("2",), ("10",)]


def test_a_model_may_be_traced_alone_and_left_out_alone(writers: dict[str, TraceWriter]) -> None:
    """Its level is its own; cleared, it is as all others."""
    tracer = tracer_of(writers, TraceValues(rate=1))
    active = [tracer.active]

    tracer.change({"trace_level": ("TIMESTAMPS",)}, "m")
    active.append(tracer.active)
    assert (chosen(tracer, 3, "m"), chosen(tracer, 3, "n")) == (3, 0)
    tracer.change({"trace_level": ("TIMESTAMPS",)})
    tracer.change({"trace_level": ("OFF",)}, "m")
    assert (chosen(tracer, 3, "m"), chosen(tracer, 3, "n")) == (0, 3)
    tracer.change({"trace_level": ()}, "m")
    assert chosen(tracer, 3, "m") == 3
    assert active == [False, True]
    assert not tracer.has("m")


def test_a_caller_who_traces_is_followed_where_spans_are_made(
    writers: dict[str, TraceWriter],
) -> None:
    """Sampled or not is its decision then, within the count; a file takes no notice of it."""
    tracer = tracer_of(writers, TraceValues(ON, 1000, 5, mode="opentelemetry"))

    assert chosen(tracer, 3, "m", {"traceparent": f"{CALLER}-01"}) == 3
    assert chosen(tracer, 3000, "m", {"traceparent": f"{CALLER}-00"}) == 0
    assert chosen(tracer, 1000, "m", {"traceparent": "nonsense"}) == 1
    assert chosen(tracer, 3, "m", {"traceparent": f"{CALLER}-01"}) == 1
    tracer.change({"trace_mode": ("triton",), "trace_count": ("-1",)})
    assert chosen(tracer, 999, "m", {"traceparent": f"{CALLER}-01"}) == 0


def test_a_trace_says_where_its_request_came_from(writers: dict[str, TraceWriter]) -> None:
    """The caller's span is its parent; times are those of the request's arrival."""
    tracer = tracer_of(writers, TraceValues(ON, 1, mode="opentelemetry"))
    call = FakeCall(metadata={"traceparent": f"{CALLER}-01", "tracestate": "a=b"})
    plan = tracer.sample("m", call)
    assert plan is not None

    trace = begin(plan, InferRequest("m", (), "3", "r1", received_ns=5), call)

    assert (trace.start_ns, trace.request_id, trace.model_version) == (5, "r1", "3")
    assert trace.parent is not None
    assert trace.parent.traceparent == f"{CALLER}-01"
    assert trace.context is not None
    assert (trace.context.trace_id, trace.context.state) == (trace.parent.trace_id, "a=b")
    assert trace.attributes == {
        "rpc.system": "grpc",
        "rpc.service": "inference.GRPCInferenceService",
        "rpc.method": "ModelInfer",
        "client.address": "127.0.0.1",
    }


def test_the_access_log_names_the_trace(writers: dict[str, TraceWriter]) -> None:
    """Ours where there is one, else the caller's, else none."""
    tracer = tracer_of(writers, TraceValues(ON, 1, mode="opentelemetry"))
    plan = tracer.sample("m", FakeCall())
    assert plan is not None
    request = InferRequest("m", ())
    trace = begin(plan, request, FakeCall())
    called = FakeCall(metadata={"traceparent": f"{CALLER}-01"})

    assert trace_id_of(request._replace(trace=trace), FakeCall()) == trace.trace_id
    assert len(trace.trace_id) == 32
    assert trace_id_of(request, called) == CALLER[3:35]
    assert trace_id_of(None, FakeCall()) == ""


@given(
    st.lists(st.lists(st.sampled_from(["", "-00", "-01", "odd"]), max_size=6), max_size=8),
    st.integers(1, 5),
    st.integers(-1, 6),
)
def test_requests_that_come_together_are_chosen_as_one_by_one(
    turns: list[list[str]], rate: int, limit: int
) -> None:
    """Whatever their callers say; none that is chosen alone is forgotten in company."""
    writer = TraceWriter(Nowhere())
    values = TraceValues(ON, rate, limit, mode="opentelemetry")
    one, many = (Tracer(TraceConfig(values), {"opentelemetry": writer}) for _ in range(2))
    calls = [
        [FakeCall(metadata={"traceparent": CALLER + end} if end else {}) for end in turn]
        for turn in turns
    ]

    together = [sorted(many.choose("m", turn)) for turn in calls]
    alone = [[i for i, call in enumerate(turn) if one.sample("m", call)] for turn in calls]

    # Of one turn those who decided are counted first.
    if limit < 0:
        assert together == alone
    assert sum(map(len, together)) == sum(map(len, alone))
    assert one.texts() == many.texts()
    writer.close(10)


def test_nobody_is_asked_while_nothing_is_traced(writers: dict[str, TraceWriter]) -> None:
    """A server that does not trace has nobody to ask."""
    tracer = tracer_of(writers, TraceValues())
    admission = Admission(InferenceCore(FakeShelf()))
    asked = []

    def follow() -> None:
        _trace(admission, tracer)
        asked.append(admission.tracer)

    tracer.listen(follow)
    tracer.change({"trace_level": ("TIMESTAMPS",)})
    tracer.change({"trace_level": ("OFF",)})

    assert asked == [None, tracer, None]


def test_a_level_without_a_place_for_traces_traces_nothing_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As Triton without a file: the settings are taken, and no request pays for them."""
    tracer = Tracer()

    tracer.change({"trace_level": ("TIMESTAMPS",), "trace_rate": ("1",)})

    assert tracer.texts()["trace_level"] == ("TIMESTAMPS",)
    assert tracer.texts()["trace_file"] == ("",)
    assert not tracer.active
    assert chosen(tracer, 5) == 0
    assert "nothing is traced in mode triton: it has no --trace-config" in caplog.text


def test_a_file_in_no_directory_ends_the_start(tmp_path: Path) -> None:
    """Better than traces that are lost one by one."""
    missing = ServerOptions(trace_config=(f"triton,file={tmp_path}/none/t.json",))

    with pytest.raises(FailedPrecondition, match="expected a file in a directory that exists"):
        open_tracer(missing)


def test_without_opentelemetry_the_flag_names_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The extra is only for those who want it."""
    monkeypatch.setitem(
        __import__("sys").modules, "penstock_runtime.observability.trace_spans", None
    )

    with pytest.raises(InvalidArgument, match=r"needs the extra penstock\[otel\]"):
        open_tracer(ServerOptions(trace_config=("mode=opentelemetry",)))


def test_written_and_lost_traces_are_counted_by_mode(tmp_path: Path) -> None:
    """A scrape tells both."""
    writer = TraceWriter(TraceFile(tmp_path / "t"))
    tracer = Tracer(TraceConfig(TraceValues(ON, 1), str(tmp_path / "t")), {"triton": writer})
    for _ in range(2):
        plan = tracer.sample("m", FakeCall())
        assert plan is not None
        begin(plan, InferRequest("m", ()), FakeCall()).finish(1)
    tracer.close(10)
    plan = tracer.sample("m", FakeCall())
    assert plan is not None
    begin(plan, InferRequest("m", ()), FakeCall()).finish(1)

    told = {f.name: [(s.labels, s.value) for s in f.samples] for f in tracer.families()}

    assert told == {
        "penstock_traces_written_total": [({"mode": "triton"}, 2)],
        "penstock_traces_dropped_total": [({"mode": "triton"}, 1)],
    }


# -- the RPC -------------------------------------------------------------------------------------

Value = TraceSettingRequest.SettingValue


async def ask(
    services: Services,
    model: str = "",
    given: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    metadata: Mapping[str, str] = NONE,
) -> dict[str, list[str]]:
    """The settings that are answered."""
    request = TraceSettingRequest(
        model_name=model, settings={name: Value(value=texts) for name, texts in given.items()}
    )
    method = next(m for m in services.methods if m.path.endswith("/TraceSetting"))
    assert method.unary is not None
    call = FakeCall(method.path, metadata=metadata)
    answer = await method.unary(request.SerializeToString(), call)
    settings = TraceSettingResponse.FromString(answer).settings
    return {name: list(said.value) for name, said in settings.items()}


def services_of(options: ServerOptions | None = None, tracer: Tracer | None = None) -> Services:
    core = InferenceCore(FakeShelf(echo_model()))
    return build_services(core, options or ServerOptions(), tracer=tracer)


@pytest.mark.asyncio
async def test_the_answer_is_what_is_in_force() -> None:
    """All of it, under the protocol's names; a model's own settings leave the others alone."""
    services = services_of()

    start = await ask(services)
    changed = await ask(services, "echo", {"trace_rate": ("7",), "trace_level": ("TENSORS",)})

    assert start == {
        "trace_level": ["OFF"],
        "trace_rate": ["1000"],
        "trace_count": ["-1"],
        "log_frequency": ["0"],
        "trace_mode": ["triton"],
        "trace_file": [""],
    }
    assert changed == {**start, "trace_rate": ["7"], "trace_level": ["TENSORS"]}
    assert await ask(services) == start
    assert await ask(services, "echo", {"trace_rate": (), "trace_level": ()}) == start
    services.close()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("model", "given", "status"),
    [
        ("none", {}, Status.NOT_FOUND),
        ("none", {"trace_rate": ("5",)}, Status.NOT_FOUND),
        ("echo", {"trace_rate": ("x",)}, Status.INVALID_ARGUMENT),
        ("", {"trace_mode": ("opentelemetry",)}, Status.INVALID_ARGUMENT),
        ("", {"trace_file": ()}, Status.UNIMPLEMENTED),
    ],
)
async def test_what_is_wrong_is_refused_and_changes_nothing(
    model: str, given: dict[str, tuple[str, ...]], status: Status
) -> None:
    """Nor does what stands beside it."""
    services = services_of()
    before = await ask(services)

    with pytest.raises(Refusal) as refusal:
        await ask(services, model, {"trace_count": ("3",), **given} if given else {})

    assert refusal.value.answer.status is status
    assert await ask(services) == before
    services.close()


@pytest.mark.asyncio
async def test_settings_stay_under_a_models_name_while_it_is_gone() -> None:
    """They can be read and cleared then, and are in force when it comes back."""
    shelf = FakeShelf(echo_model())
    services = build_services(InferenceCore(shelf), ServerOptions())
    await ask(services, "echo", {"trace_rate": ("7",)})
    model = shelf.by_name.pop("echo")

    assert (await ask(services, "echo"))["trace_rate"] == ["7"]
    shelf.by_name["echo"] = model
    assert (await ask(services, "echo"))["trace_rate"] == ["7"]
    shelf.by_name.clear()
    assert (await ask(services, "echo", {"trace_rate": ()}))["trace_rate"] == ["1000"]
    with pytest.raises(Refusal):
        await ask(services, "echo")
    services.close()


@pytest.mark.asyncio
async def test_the_group_of_trace_rpcs_can_be_restricted() -> None:
    """Its word is `trace`; who knows the secret is served."""
    services = services_of(ServerOptions(grpc_restricted_protocol=("trace:key=value",)))

    with pytest.raises(Refusal):
        await ask(services)
    assert await ask(services, metadata={"triton-grpc-protocol-key": "value"})
    services.close()
