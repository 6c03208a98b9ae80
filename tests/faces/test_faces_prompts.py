"""What a model says of a prompt, beside its answer or instead of it, to a client of Triton's."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import tritonclient.grpc as triton
from tests.e2e.language_models import PROMPT, ask, metrics, outputs, tensors
from tests.e2e.running import Running
from tests.faces.serving_languages import CHAT
from tritonclient.utils import InferenceServerException

OF_PROMPT = ("prompt_ids", "prompt_text", "num_input_tokens")


@pytest.fixture
def grpc(running: Running) -> Iterator[Any]:
    """A client."""
    with triton.InferenceServerClient(running.target) as made:
        yield made


def told(result: Any) -> tuple[list[int], list[bytes], list[int]]:
    """What a result says of its prompts."""
    ids, texts, counts = (result.as_numpy(name).tolist() for name in OF_PROMPT)
    return ids, texts, counts


def test_a_prompt_is_told_alone_and_beside_its_answer(grpc: Any, running: Running) -> None:
    """Alone nothing is generated; of several they come in a row."""
    before = metrics(running)["generation_tokens_total"]
    alone = told(grpc.infer("tiny", ask([PROMPT, "import"]), outputs=outputs(*OF_PROMPT)))
    assert metrics(running)["generation_tokens_total"] == before
    names = outputs("text_output", *OF_PROMPT)
    beside = told(grpc.infer("tiny", ask([PROMPT, "import"], max_tokens=2), outputs=names))

    ids, texts, counts = alone
    assert beside == alone
    assert texts == [PROMPT.encode(), b"import"]
    assert sum(counts) == len(ids)


def test_what_a_template_makes_of_a_conversation_can_be_seen(grpc: Any) -> None:
    """Its tokens go in again as they are."""
    inputs = tensors({"messages": json.dumps(CHAT)})

    ids, (text,), (count,) = told(grpc.infer("tiny", inputs, outputs=outputs(*OF_PROMPT)))

    assert CHAT[0]["content"].encode() in text
    assert len(ids) == count > 10


def test_a_stream_tells_its_prompt_once(running: Running) -> None:
    """With its first response."""
    found: list[Any] = []
    names = outputs("text_output", *OF_PROMPT[:2])
    with triton.InferenceServerClient(running.target) as client:
        client.start_stream(lambda result, error: found.append(error or result))
        client.async_stream_infer("tiny", ask(max_tokens=4, ignore_eos=True), outputs=names)
        client.stop_stream()

    first, *others = [r for r in found if r.as_numpy("text_output") is not None]
    assert first.as_numpy("prompt_text").tolist() == [PROMPT.encode()]
    assert first.as_numpy("prompt_ids").size > 0
    assert others
    for result in others:
        assert result.as_numpy("prompt_text").tolist() == [b""]
        assert result.as_numpy("prompt_ids").size == 0


def test_a_prompt_that_is_none_is_refused(grpc: Any) -> None:
    """As it is where an answer is wanted."""
    with pytest.raises(InferenceServerException, match="expected one of 'text_input'"):
        grpc.infer("tiny", tensors({"stream": False}), outputs=outputs("prompt_ids"))
