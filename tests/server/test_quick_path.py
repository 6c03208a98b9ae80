"""Quick calls through a real engine: known kinds of requests, from bytes to the last counter."""

import asyncio
import gc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from tests.fakes_server import FakeCall, FakeQuickCall, answered_quickly

from penstock.codec.request_encoder import encode_request
from penstock.codec.response_decoder import decode_response
from penstock.config import ServerOptions
from penstock.parts import repository_options
from penstock.services import Services, build_services
from penstock.transport.base import Message, QuickHandler, Refusal
from penstock_runtime.assembly import open_repository
from penstock_runtime.core import InferenceCore
from penstock_runtime.errors import FailureReason, Status
from penstock_runtime.repository.overrides import LoadOverrides
from penstock_runtime.request import InferRequest, RequestedOutput
from penstock_runtime.tensor import tensor

MODELS = {
    "double": "def double(X: FP32[-1]) -> FP32[-1]:\n    return X * 2",
    "batched": "def batched(X: FP32[4]) -> FP32[4]:\n    return X + len(X)",
    "slow": "def slow(X: FP32[-1]) -> FP32[-1]:\n    time.sleep(0.2)\n    return X",
    "picky": "def picky(X: FP32[-1]) -> FP32[-1]:\n"
    "    if X[0] < 0:\n        raise ValueError('negative')\n    return X",
    "wrong": "def wrong(X: FP32[-1]) -> FP32[2]:\n    return X",
}


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InferenceCore]:
    """An engine with a few small models."""
    root = tmp_path_factory.mktemp("models")
    for name, code in MODELS.items():
        write_model(root, name, code)
    options = ServerOptions(model_repository=(str(root),), model_control_mode="explicit")
    repository = open_repository(repository_options(options), {}, complete=True)
    repository.start()
    made = InferenceCore(repository)
    for name in MODELS:
        made.load(name, LoadOverrides())
    yield made
    made.stop(10.0)


def write_model(root: Path, name: str, code: str) -> None:
    folder = root / name / "1"
    folder.mkdir(parents=True)
    mark = "@model(max_batch_size=8)" if name == "batched" else "@model"
    imports = "import time\nfrom penstock import FP32, model\n"
    (folder / "model.py").write_text(f"{imports}\n{mark}\n{code}\n")


@pytest_asyncio.fixture
async def services(core: InferenceCore) -> Services:
    return build_services(core, ServerOptions())


def submit_of(services: Services) -> QuickHandler:
    method = next(m for m in services.methods if m.path.endswith("GRPCInferenceService/ModelInfer"))
    assert method.submit is not None
    return method.submit


def body(model: str, *values: float, request_id: str = "", outputs: tuple[str, ...] = ()) -> bytes:
    """A request to a model; of one row for the model that batches."""
    array = np.array(values, np.float32)
    array = array[None] if model == "batched" else array
    wanted = tuple(RequestedOutput(name) for name in outputs)
    return encode_request(InferRequest(model, (tensor("X", array),), "", request_id, wanted))


async def answer(services: Services, data: bytes, call: FakeCall | None = None) -> list[float]:
    """The values of the answer."""
    reply = await answered_quickly(submit_of(services), data, call or FakeCall())
    values: list[float] = decode_response(reply).outputs[0].numpy().ravel().tolist()
    return values


def counts(core: InferenceCore, model: str) -> tuple[int, int, int]:
    """Inferences, executions, failures."""
    found = core.statistics(model)[0]
    return found.inference_count, found.execution_count, found.fail.count


@pytest.mark.asyncio
async def test_known_kinds_are_answered_as_the_first_of_their_kind(services: Services) -> None:
    """The careful path answers the first ones, the short path the others."""
    for number in range(6):
        reply = await answered_quickly(
            submit_of(services), body("double", number, 1.0, request_id=f"r{number}"), FakeCall()
        )
        response = decode_response(reply)

        assert response.id == f"r{number}"
        assert response.outputs[0].numpy().tolist() == [2.0 * number, 2.0]
    assert (services.budget.used, services.gate.inflight) == (0, 0)


@pytest.mark.asyncio
async def test_many_at_once_get_each_their_own_answer_and_are_counted_once(
    services: Services, core: InferenceCore
) -> None:
    """Handfuls and batches mix up nothing and lose nothing."""
    for model, expected in (("double", None), ("batched", None)):
        inferences, _, failures = counts(core, model)
        data = [body(model, n, n, n, n) for n in range(200)]

        answers = await asyncio.gather(*[answer(services, each) for each in data])

        firsts = [values[0] for values in answers]
        if model == "double":
            assert firsts == [2.0 * n for n in range(200)]
        else:
            assert all(1 <= first - n <= 8 for n, first in enumerate(firsts))
        assert counts(core, model)[0] == inferences + 200
        assert counts(core, model)[2] == failures
        assert expected is None


@pytest.mark.asyncio
async def test_requested_outputs_are_known_kinds_too(
    services: Services, core: InferenceCore
) -> None:
    """Asking for an output by name changes nothing where there is one only."""
    name = core.model("double").config.output[0].name
    answers = [await answer(services, body("double", n, outputs=(name,))) for n in range(4)]

    assert answers == [[2.0 * n] for n in range(4)]


@pytest.mark.asyncio
async def test_classes_are_known_kinds_too(services: Services) -> None:
    """The same classes the first time and the tenth, among requests for the numbers themselves."""
    outputs = (RequestedOutput("OUTPUT0", {"classification": 2}),)
    asked = InferRequest(
        "batched", (tensor("X", np.array([[1, 4, 2, 4]], np.float32)),), outputs=outputs
    )
    data = encode_request(asked)

    answers = []
    for _ in range(10):
        reply = decode_response(await answered_quickly(submit_of(services), data, FakeCall()))
        answers.append(reply.outputs[0].numpy().tolist())
        await answer(services, body("batched", 1, 4, 2, 4, outputs=("OUTPUT0",)))

    assert answers == [[[b"5.000000:1", b"5.000000:3"]]] * 10


@pytest.mark.asyncio
async def test_a_failure_among_known_kinds_is_its_own(
    services: Services, core: InferenceCore
) -> None:
    """The one that fails gets the error, and its neighbours their answers."""
    for _ in range(3):
        await answer(services, body("picky", 1.0))
    before = counts(core, "picky")
    values = [1.0, -1.0, 2.0, -2.0, 3.0]

    results = await asyncio.gather(
        *[answer(services, body("picky", value)) for value in values], return_exceptions=True
    )

    good = [result for result in results if isinstance(result, list)]
    bad = [result for result in results if isinstance(result, Refusal)]
    assert good == [[1.0], [2.0], [3.0]]
    assert [refusal.answer.status for refusal in bad] == [Status.INTERNAL] * 2
    assert counts(core, "picky")[0] == before[0] + 3
    assert counts(core, "picky")[2] == before[2] + 2
    assert (services.budget.used, services.gate.inflight) == (0, 0)


@pytest.mark.asyncio
async def test_a_model_that_breaks_its_word_is_found_out_on_the_short_path(
    services: Services,
) -> None:
    """An output of another shape than declared is an error of the model, known kind or not."""
    for _ in range(4):
        with pytest.raises(Refusal) as refusal:
            await answer(services, body("wrong", 1.0, 2.0, 3.0))

        assert refusal.value.answer.status is Status.INTERNAL


@pytest.mark.asyncio
async def test_callers_who_go_away_are_counted_and_not_answered(
    services: Services, core: InferenceCore
) -> None:
    """While they wait in the queue or are executed: one counter each, and nothing held."""
    data = body("slow", 1.0)
    for _ in range(3):
        await answer(services, data)
    failures = core.statistics("slow")[0].failures[FailureReason.CANCELED]
    calls = [FakeQuickCall() for _ in range(5)]
    for call in calls:
        submit_of(services)(data, call)
    await asyncio.sleep(0.05)

    for call in calls:
        assert call.on_cancel is not None
        call.on_cancel()
        call.answer.cancel()
    await answer(services, data)

    assert core.statistics("slow")[0].failures[FailureReason.CANCELED] == failures + 5
    assert (services.budget.used, services.gate.inflight) == (0, 0)


@pytest.mark.asyncio
async def test_a_reload_is_not_noticed_by_callers_of_a_known_kind(
    services: Services, core: InferenceCore
) -> None:
    """What is known of a kind belongs to the version that knew it."""
    data = body("double", 4.0)
    for _ in range(3):
        await answer(services, data)
    stop = asyncio.Event()

    async def load() -> None:
        for _ in range(3):
            await asyncio.to_thread(core.load, "double", LoadOverrides())
        stop.set()

    async def call() -> int:
        number = 0
        while not stop.is_set():
            assert await answer(services, data) == [8.0]
            number += 1
        return number

    loading = asyncio.create_task(load())
    numbers = await asyncio.gather(*[call() for _ in range(4)])
    await loading

    assert all(numbers)


@pytest.mark.asyncio
async def test_an_answered_call_leaves_nothing_for_the_collector(services: Services) -> None:
    """Call and request let go of each other, so memory comes back without a collection."""
    data = body("double", 1.0)
    for _ in range(3):
        await answer(services, data)
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            call = FakeQuickCall()
            submit_of(services)(data, call)
            await call.answer
            assert call.on_cancel is None
        del call
        # The instance lets go of its last handful a moment after it has told of it.
        for _ in range(100):
            await asyncio.sleep(0.1)
            found = [o for o in gc.get_objects() if type(o).__name__ == "UnaryRequest"]
            if not found:
                break
    finally:
        gc.enable()

    assert not found


@pytest.mark.asyncio
async def test_an_answer_that_cannot_be_sent_costs_no_other(
    services: Services, caplog: pytest.LogCaptureFixture
) -> None:
    """Those that were told of together with it are answered, and nothing stays counted."""

    class Broken(FakeQuickCall):
        def reply(self, message: Message) -> None:
            raise RuntimeError("no such stream")

    for _ in range(3):
        await answer(services, body("double", 1.0))
    calls = [Broken() if number == 2 else FakeQuickCall() for number in range(8)]
    for call in calls:
        submit_of(services)(body("double", 1.0), call)
    sound = [call.answer for call in calls if not isinstance(call, Broken)]

    replies = await asyncio.wait_for(asyncio.gather(*sound), 20)

    assert {decode_response(reply).outputs[0].numpy().tolist()[0] for reply in replies} == {2.0}
    assert (services.budget.used, services.gate.inflight) == (0, 0)
    if "could not be sent" not in caplog.text:
        # It was told of alone: then the loop itself complained.
        assert "no such stream" in caplog.text
