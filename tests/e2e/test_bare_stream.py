"""Streams without Triton's wrapper, as MLServer's clients read them, for who asks."""

from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import numpy as np
import pytest
from tests.e2e.running import MODELS, Running, ServerThread, options
from tests.transports import TRANSPORTS

from penstock_protos import inference

PATH = "/inference.GRPCInferenceService/ModelStreamInfer"
BARE = ("penstock-bare-stream", "true")


@pytest.fixture(scope="module", params=TRANSPORTS)
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    with ServerThread(options([MODELS], transport=request.param)) as made:
        yield made


def request(model: str, value: int = 1) -> bytes:
    message = inference.ModelInferRequest(model_name=model, id=str(value))
    for name in ("INPUT0", "INPUT1"):
        message.inputs.add(name=name, datatype="INT32", shape=[1, 16])
        message.raw_input_contents.append(np.full((1, 16), value, np.int32).tobytes())
    return message.SerializeToString()


def repeat(values: Sequence[int]) -> bytes:
    message = inference.ModelInferRequest(model_name="repeat_int32", id="r")
    for name, datatype, numbers in (
        ("IN", "INT32", values),
        ("DELAY", "UINT32", [0] * len(values)),
        ("WAIT", "UINT32", [0]),
    ):
        message.inputs.add(name=name, datatype=datatype, shape=[len(numbers)])
        message.raw_input_contents.append(np.array(numbers, np.int32).tobytes())
    return message.SerializeToString()


def stream(target: str, *messages: bytes, metadata: Any = (BARE,)) -> Iterator[Any]:
    with grpc.insecure_channel(target) as channel:
        call = channel.stream_stream(PATH)(iter(messages), metadata=metadata, timeout=30)
        for data in call:
            yield inference.ModelInferResponse.FromString(data)


def test_the_responses_are_those_of_a_wrapped_stream_without_their_wrapper(
    running: Running,
) -> None:
    """One for one, byte for byte."""
    messages = [request("simple", value) for value in range(1, 6)] + [repeat([3, 1, 2])]
    with grpc.insecure_channel(running.target) as channel:
        call = channel.stream_stream(PATH)(iter(messages), timeout=30)
        wrapped = [inference.ModelStreamInferResponse.FromString(data) for data in call]

    bare = list(stream(running.target, *messages))

    key = lambda r: (r.id, r.raw_output_contents[0])  # noqa: E731
    expected = sorted((each.infer_response for each in wrapped), key=key)
    assert len(bare) == 8
    assert [r.SerializeToString() for r in sorted(bare, key=key)] == [
        r.SerializeToString() for r in expected
    ]


def test_the_first_error_ends_a_bare_stream_with_its_status(running: Running) -> None:
    """There is no place for it in the messages; what came before is answered."""
    answers = stream(running.target, request("simple", 7), request("nowhere"))

    first = next(answers)
    with pytest.raises(grpc.RpcError) as error:
        next(answers)

    assert first.id == "7"
    assert error.value.code() is grpc.StatusCode.NOT_FOUND
    assert "unknown model: 'nowhere'" in error.value.details()


def test_bare_streams_may_be_typed(running: Running) -> None:
    """Both wishes at once: what MLServer's own server would answer."""
    metadata = (BARE, ("penstock-typed-output", "true"))

    (answer,) = stream(running.target, request("simple", 2), metadata=metadata)

    assert list(answer.outputs[0].contents.int_contents) == [4] * 16
    assert not answer.raw_output_contents


def test_a_stream_is_wrapped_unless_it_asks(running: Running) -> None:
    """Triton's clients never notice."""
    (answer,) = stream(running.target, request("simple"), metadata=())

    # Field 1 is a text in one form and the model's name in the other; field 2 the version.
    assert answer.model_name == ""
    assert answer.model_version != "1"
