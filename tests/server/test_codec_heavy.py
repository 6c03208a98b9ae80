"""What takes long to decode leaves the event loop; what does not stays on it."""

import numpy as np
import pytest
from tests.server.codec_strategies import field

from penstock.codec.heavy import is_heavy
from penstock.codec.request_encoder import encode_request
from penstock_runtime.datatype import AnyArray
from penstock_runtime.request import InferRequest
from penstock_runtime.tensor import object_array, tensor

KIB = 1 << 10


def request(array: AnyArray, typed: bool = False) -> bytes:
    """A request with this input."""
    return encode_request(InferRequest("m", (tensor("x", array),)), typed)


LIGHT = {
    "nothing": b"",
    "small typed": request(np.zeros(1000, np.float32), typed=True),
    "large raw": request(np.zeros(1 << 20, np.float32)),
    "small strings": request(object_array([b"abc"] * 1000)),
    "malformed": field(1, b"m") + bytes(100 * KIB),
    "bomb": b"\x2a\x00" * (100 * KIB),
}
HEAVY = {
    "large typed": request(np.zeros(20_000, np.float32), typed=True),
    "large raw strings": request(object_array([b"x" * 100] * 1000)),
    "large typed strings": request(object_array([b"x" * 100] * 1000), typed=True),
    "large message": request(np.zeros(5 << 20, np.float32)),
}


@pytest.mark.parametrize("kind", LIGHT)
@pytest.mark.parametrize("wrap", [bytes, memoryview])
def test_views_and_refusals_are_light(kind: str, wrap: type[bytes] | type[memoryview]) -> None:
    """Raw numbers of any size up to 16 MiB are only viewed, and what is malformed is refused."""
    assert not is_heavy(wrap(LIGHT[kind]))


@pytest.mark.parametrize("kind", HEAVY)
@pytest.mark.parametrize("wrap", [bytes, memoryview])
def test_conversion_is_heavy(kind: str, wrap: type[bytes] | type[memoryview]) -> None:
    """Typed contents and strings above 64 KiB are converted one by one."""
    assert is_heavy(wrap(HEAVY[kind]))
