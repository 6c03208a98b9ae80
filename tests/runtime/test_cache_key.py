"""Laws of the key: equal for equal requests, different for whatever a model could tell apart."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from penstock_runtime.request import InferRequest, RequestedOutput
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.scheduling.cache_key import (
    DIGEST_BYTES,
    HASHED_BYTES,
    key_prefix,
    request_key,
)
from penstock_runtime.stream import ResponseStream

PREFIX = key_prefix("m", 1, 1)
NAMES = st.sampled_from(["A", "B", "AB", ""])
SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, max_side=2)
NUMBERS = arrays.arrays(st.sampled_from(["<f4", "<i4", "u1", "?"]), SHAPES)
STRINGS = st.lists(st.sampled_from([b"", b"a", b"b", b"ab"]), max_size=3).map(
    lambda items: np.array([*items, None], dtype=object)[:-1]
)
PARAMETERS = st.dictionaries(NAMES, st.sampled_from([True, 1, 1.0, "1", "True"]), max_size=2)
REQUESTS = st.fixed_dictionaries(
    {
        "arrays": st.dictionaries(NAMES, NUMBERS | STRINGS, max_size=2),
        "outputs": st.lists(NAMES, max_size=2),
        "parameters": PARAMETERS,
        "headers": st.dictionaries(NAMES, st.sampled_from(["", "1"]), max_size=2),
    }
)


def key(spec: dict[str, Any], prefix: bytes = PREFIX, **more: Any) -> bytes | None:
    """The key of a request of which this is told."""
    request = InferRequest(
        "m",
        (),
        outputs=tuple(map(RequestedOutput, spec["outputs"])),
        parameters=spec["parameters"],
        headers=spec["headers"],
        **more,
    )
    return request_key(Pending(request, ResponseStream(), spec["arrays"]), prefix)


def told(spec: dict[str, Any]) -> object:
    """The same in words that are equal for equal requests only."""
    inputs = [
        (
            name,
            array.dtype.str,
            array.shape,
            array.tolist() if array.dtype == object else array.tobytes(),
        )
        for name, array in sorted(spec["arrays"].items())
    ]
    parameters = sorted((k, type(v).__name__, str(v)) for k, v in spec["parameters"].items())
    return inputs, spec["outputs"], parameters, sorted(spec["headers"].items())


@given(REQUESTS, REQUESTS)
def test_keys_are_equal_where_requests_are(one: dict[str, Any], other: dict[str, Any]) -> None:
    """And nowhere else, however names and bytes might run into each other."""
    keys = key(one), key(other)

    assert all(found is not None and len(found) == DIGEST_BYTES for found in keys)
    assert (keys[0] == keys[1]) is (told(one) == told(other))


@given(REQUESTS)
def test_the_order_of_the_inputs_and_their_memory_make_no_difference(one: dict[str, Any]) -> None:
    """Nor do id, deadline, priority and time-out."""
    turned = {
        name: np.array(array, order="F") for name, array in reversed(list(one["arrays"].items()))
    }
    more: dict[str, Any] = {"id": "x", "deadline_ns": 5, "priority": 3, "timeout_us": 7}

    assert key({**one, "arrays": turned}, **more) == key(one)


@given(REQUESTS)
def test_another_model_version_or_load_has_other_keys(one: dict[str, Any]) -> None:
    """Names that hold what stands between the parts included."""
    prefixes = [
        PREFIX,
        key_prefix("m", 1, 2),
        key_prefix("m", 2, 1),
        key_prefix("n", 1, 1),
        key_prefix("m', 1", 1, 1),
    ]

    assert len({key(one, prefix) for prefix in prefixes}) == len(prefixes)


def test_inputs_are_hashed_up_to_a_limit() -> None:
    """All of them together; strings count with their lengths."""
    spec: dict[str, Any] = {"outputs": (), "parameters": {}, "headers": {}}
    most = np.zeros(HASHED_BYTES // 2, np.uint8)
    string = np.array([b"x" * HASHED_BYTES], dtype=object)

    assert key({**spec, "arrays": {"A": most, "B": most}}) is not None
    assert key({**spec, "arrays": {"A": most, "B": most, "C": most[:1]}}) is None
    assert key({**spec, "arrays": {"A": string}}) is None
