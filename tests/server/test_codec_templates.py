"""Templates: what they recognise is read as the careful path reads it, and nothing else is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.server.codec_strategies import requests

from penstock.codec import templates
from penstock.codec.decode import decode_request
from penstock.codec.request_encoder import encode_request
from penstock_runtime.errors import PenstockError
from penstock_runtime.request import InferRequest
from penstock_runtime.tensor import raw_bytes, tensor

NOW = 7


@pytest.fixture(autouse=True)
def forgetful() -> None:
    """Every test begins without a memory."""
    forget()


def forget() -> None:
    templates._KNOWN.clear()
    templates._SEEN.clear()


def small(request_id: str = "", value: float = 1.0, model: str = "m") -> bytes:
    """A request of the ordinary kind."""
    rows = np.full((1, 4), value, np.float32)
    return encode_request(InferRequest(model, (tensor("X", rows),), id=request_id))


def meaning(data: bytes) -> object:
    """What a message is read as: everything but how the arrays are held, or the refusal."""
    try:
        request = decode_request(data, NOW)
    except PenstockError as error:
        return type(error), error.message
    inputs = [(t.name, t.datatype, t.shape, bytes(raw_bytes(t))) for t in request.inputs]
    return request._replace(inputs=(), likeness=None), inputs


def test_a_kind_seen_twice_is_recognised_and_not_before() -> None:
    """One request may be the only one of its kind: it is not worth a template."""
    first, second, third = (decode_request(small(value=n), NOW) for n in (1.0, 2.0, 3.0))

    assert first.likeness is None
    assert second.likeness is None
    assert third.likeness is not None
    assert third.inputs[0].array.tolist() == [[3.0] * 4]


def test_requests_of_one_kind_share_their_likeness_whatever_their_ids() -> None:
    """Ids of the same length are one kind; the id itself is read each time."""
    for number in range(3):
        decode_request(small(f"id-{number}"), NOW)

    one, other = (decode_request(small(f"id-{n}", n), NOW) for n in (4, 5))

    assert (one.id, other.id) == ("id-4", "id-5")
    assert one.likeness is other.likeness is not None


def test_kinds_of_one_length_are_told_apart() -> None:
    """Names that differ in nothing but their letters are different kinds."""
    for model in ("aa", "bb") * 3:
        assert decode_request(small(model=model), NOW).model_name == model

    found = [decode_request(small(model=model), NOW) for model in ("aa", "bb")]

    assert [request.model_name for request in found] == ["aa", "bb"]
    assert found[0].likeness is not found[1].likeness


@given(requests())
def test_a_template_reads_what_the_careful_path_reads(request: InferRequest) -> None:
    """However often a request comes, it means the same."""
    forget()
    data = encode_request(request)

    seen = [meaning(data) for _ in range(4)]

    assert seen == [seen[0]] * 4


@given(requests(), st.data())
def test_a_message_changed_anywhere_means_what_it_means_without_templates(
    request: InferRequest, draw: st.DataObject
) -> None:
    """A template compares all that it does not read: nothing else passes for one of its kind."""
    forget()
    data = encode_request(request)
    for _ in range(3):
        meaning(data)
    at = draw.draw(st.integers(0, max(len(data) - 1, 0)))
    changed = data[:at] + bytes([draw.draw(st.integers(0, 255))]) + data[at + 1 :]

    with_templates = meaning(changed)
    forget()

    assert with_templates == meaning(changed)


@pytest.mark.parametrize("identity", ["tab\there", "\x7f", "\u2028"])
def test_ids_that_are_refused_are_refused_of_a_known_kind_too(identity: str) -> None:
    """A template takes plain ids only."""
    length = len(identity.encode())
    for _ in range(3):
        decode_request(small("x" * length), NOW)

    with pytest.raises(PenstockError, match="control characters"):
        decode_request(small(identity), NOW)


def test_the_memory_of_kinds_is_bounded() -> None:
    """Neither ever new names nor ever new lengths fill it."""
    for number in range(3000):
        name = "n" * (number % 700 + 1) + str(number)
        for _ in range(2):
            decode_request(small(model=name), NOW)

    assert len(templates._KNOWN) <= 512
    assert all(len(kinds) <= 4 for kinds in templates._KNOWN.values())
    assert len(templates._SEEN) <= 1024
