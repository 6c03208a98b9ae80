"""How models behave when something else happens meanwhile: cancellations, deadlines, reloads."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tests.runtime.traces import Collected
from tests.triton_python.house import DECOUPLED, PLAIN, House, house
from tests.triton_python.test_models import wait_for

from penstock_runtime.backends.triton_python.readiness import Readiness
from penstock_runtime.errors import (
    Cancelled,
    Internal,
    NotFound,
    PenstockError,
    Unavailable,
)
from penstock_runtime.repository.generation import LoadFailed
from penstock_runtime.request import InferRequest
from penstock_runtime.stream import ResponseStream
from penstock_runtime.tensor import tensor

IDENTITY = """
class TritonPythonModel:
    def execute(self, requests):
        return [answer(value(request)) for request in requests]
"""
# Answers once its caller gave up, and then not for long.
PATIENT = """
SEEN = []
class TritonPythonModel:
    def initialize(self, args):
        family = pb_utils.MetricFamily("begun_total", "", pb_utils.MetricFamily.COUNTER)
        self.begun = family.Metric()

    def execute(self, requests):
        for request in requests:
            if value(request)[0] == 0:
                return [answer([len(SEEN)])]
            self.begun.increment(1)
            while not request.is_cancelled():
                time.sleep(0.001)
            SEEN.append(1)
        return [answer([1.0]) for request in requests]
"""
CALLER = """
class TritonPythonModel:
    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        response = call("{model}", value(request)).exec()
        if response.has_error():
            return pb_utils.InferenceResponse(error=response.error())
        return answer(response.output_tensors()[0].as_numpy())
"""


def begun(house: House) -> float:
    """How many requests the patient model has begun to execute."""
    return house.custom.families()[0].samples[0].value


def failure(house: House, model: str, *values: float, **more: float) -> PenstockError:
    """The error of a request."""
    with pytest.raises(PenstockError) as caught:
        house.ask(model, *values, **more)
    return caught.value


def test_a_call_ends_when_the_caller_of_its_caller_gives_up(tmp_path: Path) -> None:
    """Cancellation passes down: the called model sees it, and its instance is free again."""
    with house(tmp_path, outer=CALLER.format(model="patient"), patient=PATIENT) as made:
        stream = made.submit("outer", 1.0)
        wait_for(lambda: begun(made) == 1)
        stream.cancel()

        with pytest.raises(Cancelled):
            stream.collect(20)
        seen = made.number("patient", 0.0)
        wait_for(lambda: made.core.inflight == 0)

        assert seen == 1


def test_a_call_has_the_deadline_of_what_it_is_made_for(tmp_path: Path) -> None:
    """It passes down, and whoever waits is told in time."""
    stuck = IDENTITY.replace("return", "threading.Event().wait(0.5)\n        return")
    with house(tmp_path, outer=CALLER.format(model="stuck"), stuck=stuck) as made:
        error = failure(made, "outer", 1.0, seconds=0.1)

        assert "deadline" in error.message


def test_a_coroutine_calls_others_and_ends_with_them(tmp_path: Path) -> None:
    """async_exec in an async execute of a decoupled model, several requests side by side."""
    text = """
    class TritonPythonModel:
        async def execute(self, requests):
            await asyncio.gather(*map(self._answer, requests))

        async def _answer(self, request):
            array, sender = value(request), request.get_response_sender()
            calls = [call("identity", array + i).async_exec() for i in range(3)]
            for response in await asyncio.gather(*calls):
                sender.send(answer(response.output_tensors()[0].as_numpy()))
            async for response in await call("identity", array).async_exec(decoupled=True):
                sender.send(answer(response.output_tensors()[0].as_numpy() * 10), flags=1)
    """
    with house(tmp_path, outer=(text, DECOUPLED), identity=IDENTITY) as made:
        streams = [made.submit("outer", float(number)) for number in range(4)]
        answers = [[float(r.outputs[0].numpy()[0]) for r in s.collect(20)] for s in streams]

        assert answers == [[n, n + 1, n + 2, n * 10] for n in (0.0, 1.0, 2.0, 3.0)]


def test_a_coroutine_that_fails_fails_its_requests(tmp_path: Path) -> None:
    """With its own words; so does one that returns something."""
    text = """
    class TritonPythonModel:
        async def execute(self, requests):
            if value(requests[0])[0] == 1:
                raise ValueError("in the coroutine")
            return [1]
    """
    with house(tmp_path, m=(text, DECOUPLED)) as made:
        errors = [failure(made, "m", number).message for number in (1.0, 2.0)]

        assert errors[0] == "in the coroutine"
        assert "must return None" in errors[1]


def test_a_coroutine_may_answer_an_ordinary_request(tmp_path: Path) -> None:
    """What it returns are the responses."""
    text = """
    class TritonPythonModel:
        async def execute(self, requests):
            await asyncio.sleep(0)
            return [answer(value(request)) for request in requests]
    """
    with house(tmp_path, m=text) as made:
        assert made.number("m", 5.0) == 5.0


def test_a_call_from_a_thread_of_the_model_finds_its_server(tmp_path: Path) -> None:
    """Given the trace of a request, it belongs to that one."""
    text = """
    class TritonPythonModel:
        def execute(self, requests):
            for request in requests:
                args = (request, request.get_response_sender())
                threading.Thread(target=self._run, args=args).start()

        def _run(self, request, sender):
            response = call("patient", value(request), trace=request.trace()).exec()
            sender.send(pb_utils.InferenceResponse(error=response.error()), flags=1)
    """
    with house(tmp_path, outer=(text, DECOUPLED), patient=PATIENT) as made:
        stream = made.submit("outer", 1.0)
        wait_for(lambda: begun(made) == 1)
        stream.cancel()

        wait_for(lambda: made.core.inflight == 0)
        assert made.number("patient", 0.0) == 1


def test_models_that_wait_for_each_other_are_told(tmp_path: Path) -> None:
    """a calls b calls a, with one instance each: an error, not a wait for ever."""
    with house(tmp_path, a=CALLER.format(model="b"), b=CALLER.format(model="a")) as made:
        error = failure(made, "a", 1.0)

        assert isinstance(error, Unavailable)
        assert "waits for this call itself" in error.message


def test_a_model_that_calls_itself_may_keep_the_order_of_its_answers(tmp_path: Path) -> None:
    """The answer of the call does not wait for that of the request that waits for it."""
    counts_down = """
    class TritonPythonModel:
        def execute(self, requests):
            return [self._answer(value(request)) for request in requests]

        def _answer(self, left):
            if left[0, 0] == 0:
                return answer(left)
            found = call("down", left - 1).exec().output_tensors()[0].as_numpy()
            return answer(found + left)
    """
    config = PLAIN + (
        "max_batch_size: 1\ninstance_group { count: 3 kind: KIND_CPU }\n"
        "dynamic_batching { preserve_ordering: true }\n"
    )
    with house(tmp_path, down=(counts_down, config)) as made:
        assert made.row("down", 2, seconds=20) == 3


def test_a_circle_through_an_ensemble_is_found_too(tmp_path: Path) -> None:
    """a calls an ensemble with a step of a: what executes are the steps."""
    steps = """
    platform: "ensemble"
    input [ { name: "X" data_type: TYPE_FP32 dims: [ -1 ] } ]
    output [ { name: "Y" data_type: TYPE_FP32 dims: [ -1 ] } ]
    ensemble_scheduling { step [
      { model_name: "STEP" model_version: -1
        input_map { key: "X" value: "X" } output_map { key: "Y" value: "Y" } } ] }
    """
    with house(
        tmp_path,
        a=CALLER.format(model="round"),
        b=CALLER.format(model="fine"),
        identity=IDENTITY,
        round=("", steps.replace("STEP", "a")),
        fine=("", steps.replace("STEP", "identity")),
    ) as made:
        error = failure(made, "a", 1.0)

        assert "waits for this call itself" in error.message
        assert made.number("b", 3.0) == 3.0


HOLDS = """
instance_group {
  count: 1 kind: KIND rate_limiter { resources { name: "R" global: true count: 1 } } }
"""


@pytest.mark.parametrize("kind", ["KIND_CPU", "KIND_PROCESS"])
def test_who_holds_a_resource_does_not_wait_for_a_model_that_needs_it(
    tmp_path: Path, kind: str
) -> None:
    """It says so at once, directly or by an ensemble; who needs nothing may call it, and ensembles
    go from one to the other.
    """
    steps = """
    platform: "ensemble"
    input [ { name: "X" data_type: TYPE_FP32 dims: [ -1 ] } ]
    output [ { name: "Y" data_type: TYPE_FP32 dims: [ -1 ] } ]
    ensemble_scheduling { step [
      { model_name: "inner" model_version: -1
        input_map { key: "X" value: "X" } output_map { key: "Y" value: "M" } },
      { model_name: "inner" model_version: -1
        input_map { key: "X" value: "M" } output_map { key: "Y" value: "Y" } } ] }
    """
    own, here = (PLAIN + HOLDS.replace("KIND", one) for one in (kind, "KIND_CPU"))
    with house(
        tmp_path,
        rated=True,
        inner=(IDENTITY, here),
        outer=(CALLER.format(model="inner"), own),
        round=(CALLER.format(model="steps"), here),
        free=CALLER.format(model="inner"),
        steps=("", steps),
    ) as made:
        errors = [failure(made, model, 1.0) for model in ("outer", "round")]

        for error, (outer, inner) in zip(
            errors, [("outer", "inner"), ("round", "steps")], strict=True
        ):
            assert (
                f"model '{outer}' cannot wait for model '{inner}': inner version 1 needs resource"
                f" 'R' of the rate limiter, of which {outer} version 1 holds too much"
            ) in error.message
        assert made.number("free", 3.0) == made.number("steps", 3.0) == made.number("inner", 3.0)


def test_coroutines_do_not_call_each_other_for_ever(tmp_path: Path) -> None:
    """They hold no instance, so that only the depth of their calls ends them."""
    text = """
    class TritonPythonModel:
        async def execute(self, requests):
            for request in requests:
                sender = request.get_response_sender()
                async for response in await call("m", value(request)).async_exec(decoupled=True):
                    sender.send(response, flags=1)
    """
    with house(tmp_path, m=(text, DECOUPLED)) as made:
        error = failure(made, "m", 1.0)

        assert "in a row of models that wait for each other, expected at most 16" in error.message


def test_a_sequence_is_called_with_its_flags_and_id(tmp_path: Path) -> None:
    """And parameters, time-out, and the version."""
    inner = """
    class TritonPythonModel:
        def execute(self, requests):
            for request in requests:
                facts = (request.correlation_id(), request.flags(), request.timeout())
                assert facts == ("s", 3, 700), facts
                assert request.parameters() == '{"a": 1}', request.parameters()
            return [answer(value(request)) for request in requests]
    """
    outer = """
    class TritonPythonModel:
        def execute(self, requests):
            more = dict(correlation_id="s", flags=3, timeout=700, parameters={"a": 1})
            calls = [call("inner", value(each), model_version=1, **more) for each in requests]
            return [each.exec() for each in calls]
    """
    with house(tmp_path, outer=outer, inner=inner) as made:
        assert made.number("outer", 4.0) == 4.0


def test_calls_go_on_with_a_sequence_of_a_version_that_is_out_of_service(tmp_path: Path) -> None:
    """As requests of clients do; the input says which flags the call has."""
    outer = """
    class TritonPythonModel:
        def execute(self, requests):
            asked = [value(each) for each in requests]
            return [call("inner", v, correlation_id=7, flags=int(v[0])).exec() for v in asked]
    """
    config = PLAIN + "sequence_batching { max_sequence_idle_microseconds: 30000000 direct { } }\n"
    with house(tmp_path, outer=outer, inner=(IDENTITY, config)) as made:
        begun = made.number("outer", 1.0)
        made.repository.unload("inner")

        assert (begun, made.number("outer", 0.0), made.number("outer", 2.0)) == (1.0, 0.0, 2.0)
        assert isinstance(failure(made, "outer", 1.0), PenstockError)


def test_a_reload_while_requests_are_under_way_loses_none(tmp_path: Path) -> None:
    """Each is answered by the old code or by the new."""
    text = """
    class TritonPythonModel:
        def execute(self, requests):
            return [answer(value(request) * {by}) for request in requests]
    """
    with house(tmp_path, m=text.format(by=1)) as made:
        found: list[float] = []
        ended = threading.Event()

        def load() -> None:
            while not ended.is_set():
                found.append(made.number("m", 1.0))

        threads = [threading.Thread(target=load) for _ in range(3)]
        for thread in threads:
            thread.start()
        for by in (2, 3):
            made.write("m", text.format(by=by))
            made.repository.load("m")
        ended.set()
        for thread in threads:
            thread.join()

        assert set(found) <= {1.0, 2.0, 3.0}
        assert made.number("m", 1.0) == 3.0
        wait_for(lambda: made.core.inflight == 0)


def test_finalize_may_still_answer_what_the_model_kept(tmp_path: Path) -> None:
    """It is called before what is left is refused."""
    text = """
    class TritonPythonModel:
        def initialize(self, args):
            self.senders = []

        def execute(self, requests):
            self.senders += [request.get_response_sender() for request in requests]

        def finalize(self):
            for sender in self.senders:
                sender.send(answer([7.0]), flags=1)
    """
    with house(tmp_path, m=(text, DECOUPLED)) as made:
        stream = made.submit("m", 1.0)
        made.core.unload("m")

        (response,) = stream.collect(20)

        assert response.outputs[0].numpy().tolist() == [7.0]


def test_warm_up_reaches_models_that_answer_themselves(tmp_path: Path) -> None:
    """The requests of the configuration are executed before the model is ready."""
    text = """
    SEEN = []
    class TritonPythonModel:
        def execute(self, requests):
            for request in requests:
                SEEN.append(1)
                sender = request.get_response_sender()
                args = (answer([len(SEEN)]), 1)
                threading.Thread(target=sender.send, args=args).start()
    """
    warmup = """
    model_warmup { name: "w" count: 3
      inputs { key: "X" value { data_type: TYPE_FP32 dims: 2 zero_data: true } } }
    """
    with house(tmp_path, m=(text, DECOUPLED + warmup)) as made:
        assert made.number("m", 1.0) == 4.0


def test_a_tensor_passes_through_two_models_without_a_copy(tmp_path: Path) -> None:
    """The memory that came in is the memory that goes out."""
    with house(tmp_path, outer=CALLER.format(model="inner"), inner=IDENTITY) as made:
        array = np.arange(1000, dtype=np.float32)
        stream = ResponseStream()
        made.core.infer(InferRequest("outer", (tensor("X", array),)), stream)

        (response,) = stream.collect(20)

        assert np.shares_memory(response.outputs[0].numpy(), array)


@pytest.mark.parametrize(
    ("parameter", "text", "words"),
    [
        ("EXECUTION_ENV_PATH", "env.tar.gz", "models run in the server's own process"),
        ("FORCE_CPU_ONLY_INPUT_TENSORS", "maybe", "expected yes or no"),
        ("WRITABLE_INPUTS", "maybe", "expected yes or no"),
    ],
)
def test_parameters_that_cannot_be_honoured_are_refused(
    tmp_path: Path, parameter: str, text: str, words: str
) -> None:
    """At load, with what to do instead."""
    config = f'{PLAIN}parameters {{ key: "{parameter}" value {{ string_value: "{text}" }} }}\n'
    with house(tmp_path, m=(IDENTITY, config)) as made:
        with pytest.raises(LoadFailed, match=words):
            made.repository.load("m")
        with pytest.raises(NotFound):
            made.ask("m", 1.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "def initialize(self, args): raise OSError('no weights')",
            "initialize of model 'm' failed",
        ),
        ("def __init__(self): 1 / 0", "__init__ of model 'm' failed: ZeroDivisionError"),
        (
            "@staticmethod\n    def auto_complete_config(config): config.set_max_batch_size('x')",
            "auto_complete_config of model 'm' failed: TypeError",
        ),
        (
            "@staticmethod\n    def auto_complete_config(config): pass",
            "must return the ModelConfig",
        ),
        (
            "@staticmethod\n    def auto_complete_config(config):\n"
            "        config.add_input({'name': 'X', 'data_type': 'TYPE_FP64', 'dims': [-1]})",
            "data_type of input 'X' is TYPE_FP32 in the configuration, the model says TYPE_FP64",
        ),
        (
            "def initialize(self, args): pb_utils.load_model('m')",
            "cannot wait for model 'm' while it is loaded",
        ),
    ],
)
def test_a_model_that_fails_to_start_says_why(tmp_path: Path, text: str, words: str) -> None:
    """In the reason of its load, without a path or a stack trace."""
    model = f"class TritonPythonModel:\n    {text}\n    def execute(self, requests): ...\n"
    with house(tmp_path, m=model) as made, pytest.raises(LoadFailed) as caught:
        made.repository.load("m")

    assert words in caught.value.message
    assert str(tmp_path) not in caught.value.message


def test_models_that_load_each_other_are_told(tmp_path: Path) -> None:
    """a loads b while it is loaded, b loads a: refused instead of waited for."""
    text = """
    class TritonPythonModel:
        def initialize(self, args):
            pb_utils.load_model("{other}")
        def execute(self, requests): ...
    """
    with house(tmp_path) as made:
        made.write("a", text.format(other="b"))
        made.write("b", text.format(other="a"))

        with pytest.raises(LoadFailed, match="cannot wait for model 'a' while it is loaded"):
            made.repository.load("a")


def test_a_file_beside_the_model_does_not_hide_the_module(tmp_path: Path) -> None:
    """Some models bring a copy for their editor."""
    with house(tmp_path) as made:
        made.write("m", IDENTITY)
        (tmp_path / "m" / "1" / "triton_python_backend_utils.py").write_text("Tensor = None\n")
        made.repository.load("m")

        assert made.number("m", 3.0) == 3.0


def test_metrics_of_a_model_that_fails_to_load_are_gone(tmp_path: Path) -> None:
    """And its instances are counted no more."""
    text = """
    class TritonPythonModel:
        def initialize(self, args):
            pb_utils.MetricFamily("m_total", "", 0).Metric()
            raise ValueError("no")
        def execute(self, requests): ...
    """
    with house(tmp_path, m=text) as made:
        assert made.custom.families() == []


def test_a_model_loads_another_with_a_configuration_and_files_of_its_own(tmp_path: Path) -> None:
    """As a client could; get_model_dir says where the code is."""
    text = """
    import json
    LOADER = True
    TENSORS = [[{"name": name, "data_type": "TYPE_FP32", "dims": [-1]}] for name in "XY"]

    class TritonPythonModel:
        def execute(self, requests):
            if not LOADER:
                return [answer([9.0]) for request in requests]
            config = {"backend": "python", "input": TENSORS[0], "output": TENSORS[1]}
            with open(pb_utils.get_model_dir() + "/model.py", "rb") as file:
                code = file.read().replace(b"LOADER = True", b"LOADER = False")
            files = {"file:1/model.py": code}
            pb_utils.load_model("made", config=json.dumps(config), files=files)
            return [call("made", [1.0]).exec() for request in requests]
    """
    with house(tmp_path, m=text) as made:
        assert made.number("m", 1.0) == 9.0


def test_a_response_to_a_request_of_the_wrong_kind_is_refused(tmp_path: Path) -> None:
    """Lists of something else, no list at all, and something where nothing belongs."""
    text = """
    class TritonPythonModel:
        def execute(self, requests):
            return {what}
    """
    with house(
        tmp_path,
        strange=text.format(what="[3]"),
        nothing=text.format(what="None"),
        something=(text.format(what="[answer([1.0])]"), DECOUPLED),
        leaving=text.format(what="__import__('sys').exit(3)"),
    ) as made:
        errors = {name: failure(made, name, 1.0) for name in ("strange", "nothing", "something")}
        left = failure(made, "leaving", 1.0)

        assert "returned a list with a int" in errors["strange"].message
        assert "returned a NoneType, expected a list of 1" in errors["nothing"].message
        assert "must return None" in errors["something"].message
        assert isinstance(left, Internal)
        assert made.core.model_ready("leaving")


def test_a_model_that_does_not_say_whether_it_is_ready_is_not() -> None:
    """Nobody waits for it, and an exception says no."""
    asked = threading.Event()
    go_on = threading.Event()
    answers = iter([True, None])

    def ask() -> bool:
        found = next(answers, False)
        if found is None:
            asked.set()
            go_on.wait(20)
        return bool(found)

    readiness = Readiness("m", ask, every_s=0.001)
    first = readiness.ready
    asked.wait(20)
    meanwhile = readiness.ready
    readiness._asked_at = -100.0
    too_long = readiness.ready
    go_on.set()
    wait_for(lambda: not readiness.ready)
    readiness.stop()

    assert (first, meanwhile, too_long) == (True, True, False)


def test_an_instance_that_leaves_lets_its_requests_end(tmp_path: Path) -> None:
    """Its model goes on with others, and may still answer what this one has kept."""
    text = """
    KEPT, LEFT = [], []
    class TritonPythonModel:
        def execute(self, requests):
            for request in requests:
                KEPT.append(request.get_response_sender())
                if value(request)[0] == 0:
                    for number, sender in enumerate(KEPT):
                        sender.send(answer([number + 10 * len(LEFT)]), flags=1)
        def finalize(self):
            LEFT.append(1)
    """
    group = "instance_group {{ kind: KIND_CPU count: {count} }}\n"
    with house(tmp_path, m=(text, DECOUPLED + group.format(count=3))) as made:
        streams = [made.submit("m", 1.0) for _ in range(8)]
        (tmp_path / "m" / "config.pbtxt").write_text(DECOUPLED + group.format(count=1))
        made.repository.load("m")
        streams.append(made.submit("m", 0.0))

        numbers = [float(s.collect(20)[0].outputs[0].numpy()[0]) for s in streams]

        assert sorted(number % 10 for number in numbers) == list(range(9))


def test_the_trace_of_a_request_goes_on_in_the_calls_that_it_makes(tmp_path: Path) -> None:
    """Each call is a child, and models can hand the trace's context to others."""
    collected = Collected(spans=True)
    told = """
    class TritonPythonModel:
        def execute(self, requests):
            assert "traceparent" in requests[0].trace().get_context()
            return [call("inner", value(each), trace=each.trace()).exec() for each in requests]
    """
    with house(tmp_path, outer=told, inner=IDENTITY) as made:
        trace = collected.begin("outer", time.monotonic_ns())

        assert made.number("outer", 2.0, trace=trace) == 2.0

        inner, outer = collected.traces
        assert (inner.model_name, outer.model_name) == ("inner", "outer")
        assert inner.parent_id == outer.id
        assert inner.trace_id == outer.trace_id
        assert [e.execution and e.execution.instance for e in (inner, outer)] == [
            "inner_0_0",
            "outer_0_0",
        ]


def test_sequences_reach_models_with_their_controls(tmp_path: Path) -> None:
    """Start, end and correlation id are inputs; a request can be rescheduled until it is done."""
    controls = """
    max_batch_size: 4
    sequence_batching { ITERATIVE oldest { max_candidate_sequences: 4 }
      control_input [
        { name: "START" control { kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] } },
        { name: "ID" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } } ] }
    """
    text = """
    AGAIN, TOTAL = bool(WHETHER), {}
    class TritonPythonModel:
        def execute(self, requests):
            return [self._answer(request) for request in requests]

        def _answer(self, request):
            name = int(value(request, "ID")[0, 0])
            if value(request, "START")[0, 0]:
                TOTAL[name] = 0.0
            TOTAL[name] += float(value(request)[0, 0])
            if AGAIN and TOTAL[name] < 5:
                request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
                return None
            return answer([[TOTAL[name]]])
    """
    plain = PLAIN + controls.replace("ITERATIVE", "")
    iterative = PLAIN + controls.replace("ITERATIVE", "iterative_sequence: true")
    with house(
        tmp_path,
        sums=(text.replace("WHETHER", "0"), plain),
        steps=(text.replace("WHETHER", "1"), iterative),
        wrong=(text.replace("WHETHER", "1"), plain),
    ) as made:
        first = made.row("sums", 1.0, correlation_id=7, sequence_start=True)
        second = made.row("sums", 2.0, correlation_id=7, sequence_end=True)
        stepped = made.row("steps", 1.0, correlation_id=8, sequence_start=True, sequence_end=True)
        with pytest.raises(Internal, match="does not say iterative_sequence"):
            made.row("wrong", 1.0, correlation_id=9, sequence_start=True)
        wait_for(lambda: made.core.inflight == 0)

        assert (first, second) == (1.0, 3.0)
        assert stepped >= 5
