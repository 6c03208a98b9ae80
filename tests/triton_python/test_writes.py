"""Models that write into their inputs: as in Triton they may, and nobody else sees it."""

from pathlib import Path
from textwrap import indent

import pytest
from tests.triton_python.house import DECOUPLED, PLAIN, House, house
from tests.triton_python.test_models import wait_for

from penstock_runtime.errors import PenstockError

# Each answers with its input plus one, and how often its model was called by then.
MODEL = """
CALLS = []
class TritonPythonModel:
    def execute(self, requests):
        CALLS.append(len(requests))
{body}
    def _answer(self, request):
        array = value(request)
        array += 1
        return answer([array.reshape(-1)[0], len(CALLS)])
"""
BODIES = {
    "plain": "return [self._answer(request) for request in requests]",
    "answered": """
try:
    return [self._answer(request) for request in requests]
except Exception as error:
    failed = pb_utils.InferenceResponse(error=pb_utils.TritonError(f"it broke: {error}"))
    return [failed for request in requests]
""",
    "raised_anew": """
try:
    return [self._answer(request) for request in requests]
except Exception as error:
    raise pb_utils.TritonModelException("it broke") from error
""",
}
WRITER = MODEL.format(body=indent(BODIES["plain"], " " * 8))
BATCHES = """
max_batch_size: 3
dynamic_batching { preferred_batch_size: [ 3 ] max_queue_delay_microseconds: 20000000 }
"""


def said(words: str) -> str:
    """A configuration with this WRITABLE_INPUTS."""
    return f'parameters {{ key: "WRITABLE_INPUTS" value {{ string_value: "{words}" }} }}\n'


def two(made: House, *values: float) -> list[list[float]]:
    """The answers to two requests, one after the other."""
    return [made.ask("m", number)[0].outputs[0].numpy().tolist() for number in values]


def failure(made: House, *values: float) -> str:
    """The words of the error of a request."""
    with pytest.raises(PenstockError) as caught:
        made.ask("m", *values)
    return caught.value.message


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("body", BODIES)
def test_a_write_into_an_input_is_repeated_once_and_never_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, body: str, asynchronous: bool
) -> None:
    """Whatever becomes of the exception: no caller sees it, one warning names the parameter."""
    text = MODEL.format(body=indent(BODIES[body], " " * 8))
    if asynchronous:
        text = text.replace("def execute", "async def execute")
    with house(tmp_path, m=text) as made:
        answers = two(made, 1.0, 5.0)

        (counted,) = made.core.statistics("m")
        assert answers == [[2.0, 2.0], [6.0, 3.0]]
        assert caplog.text.count("WRITABLE_INPUTS") == 1
        assert (counted.success.count, counted.execution_count) == (2, 2)
        assert sum(counted.failures.values()) == 0


def test_a_batch_is_repeated_as_it_was(tmp_path: Path) -> None:
    """All its requests are answered, and count as one execution of so many rows."""
    config = PLAIN + BATCHES
    with house(
        tmp_path, m=(WRITER.replace("answer([", "answer([[").replace(")])", ")]])"), config)
    ) as made:
        streams = [made.submit("m", float(number), batched=True) for number in range(3)]
        answers = [stream.collect(20)[0].outputs[0].numpy().tolist() for stream in streams]

        (counted,) = made.core.statistics("m")
        assert answers == [[[number + 1.0, 2.0]] for number in range(3)]
        assert (counted.success.count, counted.inference_count) == (3, 3)
        assert counted.execution_count == 1


def test_of_a_batch_only_what_failed_is_repeated(tmp_path: Path) -> None:
    """A model that catches errors per request has answered the others."""
    text = """
    SEEN = []
    class TritonPythonModel:
        def execute(self, requests):
            return [self._answer(request) for request in requests]

        def _answer(self, request):
            array, number = value(request), float(value(request)[0, 0])
            SEEN.append(number)
            try:
                if number == 1:
                    array += 1
            except ValueError as error:
                return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
            return answer([[array[0, 0], SEEN.count(number)]])
    """
    with house(tmp_path, m=(text, PLAIN + BATCHES)) as made:
        streams = [made.submit("m", number, batched=True) for number in (0.0, 1.0, 3.0)]
        answers = [stream.collect(20)[0].outputs[0].numpy()[0].tolist() for stream in streams]
        (counted,) = made.core.statistics("m")

        assert answers == [[0.0, 1.0], [2.0, 2.0], [3.0, 1.0]]
        assert (counted.success.count, counted.execution_count) == (3, 1)


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_decoupled_model_is_repeated_before_its_first_response(tmp_path: Path, kind: str) -> None:
    """Its caller gets what the repetition sends, and nothing twice."""
    text = f"""
    CALLS = []
    class TritonPythonModel:
        {kind} execute(self, requests):
            CALLS.append(1)
            for request in requests:
                array, sender = value(request), request.get_response_sender()
                array += 1
                sender.send(answer([array[0], len(CALLS)]))
                sender.send(answer([array[0], len(CALLS)]), 1)
    """
    with house(tmp_path, m=(text, DECOUPLED)) as made:
        answers = [[r.outputs[0].numpy().tolist() for r in made.ask("m", n)] for n in (1.0, 5.0)]

        assert answers == [[[2.0, 2.0]] * 2, [[6.0, 3.0]] * 2]
        wait_for(lambda: made.core.inflight == 0)


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_what_was_answered_is_not_repeated(tmp_path: Path, kind: str) -> None:
    """A response was sent, so the error reaches the caller; the next request has its copies."""
    text = f"""
    CALLS = []
    class TritonPythonModel:
        {kind} execute(self, requests):
            CALLS.append(1)
            for request in requests:
                array, sender = value(request), request.get_response_sender()
                sender.send(answer([len(CALLS)]))
                array += 1
                sender.send(answer([array[0], len(CALLS)]), 1)
    """
    with house(tmp_path, m=(text, DECOUPLED)) as made:
        words = failure(made, 1.0)
        answers = [r.outputs[0].numpy().tolist() for r in made.ask("m", 5.0)]

        assert "read-only" in words
        assert answers == [[2.0], [6.0, 2.0]]


def test_an_error_that_was_sent_is_not_repeated(tmp_path: Path) -> None:
    """It is answered; what the model does is known from then on."""
    text = """
    class TritonPythonModel:
        def execute(self, requests):
            for request in requests:
                array, sender = value(request), request.get_response_sender()
                try:
                    array += 1
                    sender.send(answer(array), 1)
                except ValueError as error:
                    told = pb_utils.TritonError(str(error))
                    sender.send(pb_utils.InferenceResponse(error=told), 1)
    """
    with house(tmp_path, m=(text, DECOUPLED)) as made:
        words = failure(made, 1.0)

        assert "read-only" in words
        assert made.number("m", 1.0) == 2.0


def test_a_sender_of_the_failed_call_answers_nobody(tmp_path: Path) -> None:
    """What a thread of it sends later is refused, as after the last response."""
    text = """
    CALLS, REFUSED = [], threading.Event()
    class TritonPythonModel:
        def execute(self, requests):
            CALLS.append(requests[0].get_response_sender())
            array = value(requests[0])
            if len(CALLS) > 1:
                try:
                    CALLS[0].send(answer([-1.0]), 1)
                except pb_utils.TritonModelException:
                    REFUSED.set()
            array += 1
            return [answer([array[0], REFUSED.is_set()])]
    """
    with house(tmp_path, m=text) as made:
        assert two(made, 1.0) == [[2.0, 1.0]]


def test_all_instances_know_what_one_has_found(tmp_path: Path) -> None:
    """The second one need not fail itself."""
    text = """
    CALLS, BOTH = [], threading.Barrier(2)
    class TritonPythonModel:
        def execute(self, requests):
            CALLS.append(1)
            array = value(requests[0])
            if array[0] > 0:
                BOTH.wait(10)
            array += 1
            return [answer([array[0], len(CALLS)])]
    """
    config = PLAIN + "instance_group { count: 2 kind: KIND_CPU }\n"
    with house(tmp_path, m=(text, config)) as made:
        first = made.number("m", -1.0)
        streams = [made.submit("m", 1.0) for _ in range(2)]
        rest = [stream.collect(20)[0].outputs[0].numpy().tolist() for stream in streams]

        assert first == 0.0
        assert [found[0] for found in rest] == [2.0, 2.0]
        assert max(found[1] for found in rest) == 4.0


def test_the_parameter_says_whether_there_are_copies(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`yes` from the start, `no` never: then each caller gets the error, from one call each."""
    with house(tmp_path, m=(WRITER, PLAIN + said("yes"))) as made:
        assert two(made, 1.0, 2.0) == [[2.0, 1.0], [3.0, 2.0]]
        assert "WRITABLE_INPUTS" not in caplog.text
        made.write("m", WRITER.replace("+= 1", "+= len(CALLS)"), PLAIN + said("no"))
        made.repository.load("m")

        assert "read-only" in failure(made, 1.0)
        assert "read-only" in failure(made, 1.0)
        assert sum(made.core.statistics("m")[0].failures.values()) == 2


def test_a_reload_begins_anew(tmp_path: Path) -> None:
    """What was found is about that code, not about the name."""
    with house(tmp_path, m=WRITER) as made:
        before = two(made, 1.0, 1.0)
        made.write("m", WRITER + "\n")
        made.repository.load("m")

        assert before == [[2.0, 2.0], [2.0, 3.0]]
        assert two(made, 1.0) == [[2.0, 2.0]]


def test_whoever_fails_with_copies_too_is_not_repeated_again(tmp_path: Path) -> None:
    """Other memory may be read-only as well: one repetition, then the error."""
    text = """
    CALLS, FIXED = [], np.frombuffer(b"1234", np.uint8)
    class TritonPythonModel:
        def execute(self, requests):
            CALLS.append(1)
            if value(requests[0])[0] == 0:
                return [answer([len(CALLS)])]
            FIXED[0] = 1
    """
    with house(tmp_path, m=text) as made:
        words = failure(made, 1.0)

        assert "read-only" in words
        assert made.number("m", 0.0) == 3.0
        failure(made, 1.0)
        assert made.number("m", 0.0) == 5.0


def test_what_nobody_waits_for_is_not_repeated(tmp_path: Path) -> None:
    """The caller gave up while the model was about to fail."""
    text = """
    CALLS = []
    class TritonPythonModel:
        def initialize(self, args):
            family = pb_utils.MetricFamily("begun_total", "", pb_utils.MetricFamily.COUNTER)
            self.begun = family.Metric()

        def execute(self, requests):
            CALLS.append(1)
            array = value(requests[0])
            self.begun.increment(1)
            while array[0] == 0 and not requests[0].is_cancelled():
                time.sleep(0.001)
            array += 1
            return [answer([len(CALLS)])]
    """
    with house(tmp_path, m=text) as made:
        stream = made.submit("m", 0.0)
        wait_for(lambda: made.custom.families()[0].samples[0].value == 1)
        stream.cancel()
        wait_for(lambda: made.core.inflight == 0)

        assert made.number("m", 1.0) == 2.0


def test_a_further_step_is_asked_for_by_the_repetition_only(tmp_path: Path) -> None:
    """What the failed call said of its requests does not count: this one is kept."""
    controls = """
    max_batch_size: 1
    sequence_batching { iterative_sequence: true oldest { max_candidate_sequences: 2 } }
    """
    text = """
    KEPT = []
    class TritonPythonModel:
        def initialize(self, args):
            family = pb_utils.MetricFamily("calls_total", "", pb_utils.MetricFamily.COUNTER)
            self.calls = family.Metric()

        def execute(self, requests):
            self.calls.increment(1)
            if self.calls.value() == 1:
                requests[0].set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
            array = value(requests[0])
            array += 1
            if self.calls.value() == 2:
                KEPT.append(requests[0].get_response_sender())
                return [None]
            KEPT[0].send(answer([[100.0]]), 1)
            return [answer(array)]
    """
    with house(tmp_path, m=(text, PLAIN + controls)) as made:
        flags = {"sequence_start": True, "sequence_end": True, "batched": True}
        kept = made.submit("m", 1.0, correlation_id=7, **flags)
        wait_for(lambda: made.custom.families()[0].samples[0].value >= 2)
        other = made.submit("m", 5.0, correlation_id=8, **flags)

        answers = [stream.collect(20)[0].outputs[0].numpy().tolist() for stream in (kept, other)]

        assert answers == [[[100.0]], [[6.0]]]


def test_warm_up_finds_out_already(tmp_path: Path) -> None:
    """Then no request is repeated."""
    warmup = """
    model_warmup { name: "w" count: 1
      inputs { key: "X" value { data_type: TYPE_FP32 dims: 2 zero_data: true } } }
    """
    with house(tmp_path, m=(WRITER, PLAIN + warmup)) as made:
        assert two(made, 1.0) == [[2.0, 3.0]]


def test_concurrent_finds_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Instances that fail at the same time all repeat what they had, with one warning."""
    text = """
    BOTH = threading.Barrier(2)
    class TritonPythonModel:
        def initialize(self, args):
            self.first = True

        def execute(self, requests):
            array = value(requests[0])
            if self.first:
                self.first = False
                BOTH.wait(10)
            array += 1
            return [answer(array)]
    """
    config = PLAIN + "instance_group { count: 2 kind: KIND_CPU }\n"
    with house(tmp_path, m=(text, config)) as made:
        streams = [made.submit("m", 1.0) for _ in range(2)]
        answers = [stream.collect(20)[0].outputs[0].numpy()[0] for stream in streams]

        assert answers == [2.0, 2.0]
        assert caplog.text.count("WRITABLE_INPUTS") == 1
