"""What is taken for a write into an input, and what memory belongs to one request alone."""

from collections.abc import Callable

import numpy as np
import pytest

from penstock_runtime.backends.triton_python.lending import of_message, refused_write, says_refused


def attempts() -> list[Callable[[], object]]:
    """Ways to write into an array that refuse it."""
    frozen = np.frombuffer(bytes(16), np.float32)
    square = frozen.reshape(2, 2)
    return [
        lambda: frozen.__setitem__(0, 1),
        lambda: frozen.__iadd__(1),
        frozen.sort,
        lambda: frozen.fill(1),
        lambda: frozen.byteswap(inplace=True),
        lambda: frozen.setflags(write=True),
        lambda: np.copyto(frozen, 1),
        lambda: np.put(frozen, 0, 1),
        lambda: np.clip(frozen, 0, 1, out=frozen),
        lambda: np.fill_diagonal(square, 1),
        lambda: np.random.default_rng().shuffle(frozen),
        lambda: np.random.default_rng().permuted(frozen, out=frozen),
        lambda: np.random.default_rng().random(out=frozen, dtype=np.float32),
        lambda: frozen.take([0], out=frozen[:1]),
        lambda: memoryview(bytes(4)).__setitem__(0, 1),
    ]


@pytest.mark.parametrize("number", range(len(attempts())))
def test_what_refuses_a_write_is_known_by_its_words(number: int) -> None:
    """numpy has many, for one and the same reason."""
    attempt = attempts()[number]

    with pytest.raises((ValueError, TypeError)) as caught:
        attempt()

    assert refused_write(caught.value)
    wrapped = RuntimeError("it broke")
    wrapped.__cause__ = caught.value
    assert refused_write(wrapped)


@pytest.mark.parametrize(
    "text",
    [
        "[Errno 30] Read-only file system: '/cache'",
        "the database is read-only",
        "the index is opened read-only",
        "property 'array' of 'Model' object has no setter",
        "",
    ],
)
def test_other_words_are_not_taken_for_it(text: str) -> None:
    """Nothing is repeated that would fail again."""
    assert not says_refused(text)
    assert not refused_write(ValueError(text))


def test_a_circle_of_causes_ends() -> None:
    """Exceptions can be each other's cause."""
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first

    assert not refused_write(first)


def test_arrays_of_messages_are_told_from_those_that_somebody_made() -> None:
    """By what their memory belongs to, views of views included."""
    made = np.zeros((2, 2), np.float32)

    assert of_message(np.frombuffer(bytes(16), np.float32).reshape(2, 2)[1:])
    assert of_message(np.frombuffer(np.empty(16, np.uint8).data, np.float32))
    assert not of_message(made[1:])
    assert not of_message(made)
