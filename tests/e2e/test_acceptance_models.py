"""The models that public example programs expect, and those of the benchmarks, answer exactly."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks import build_repository
from tests.e2e.direct import opened

MODELS = Path(__file__).resolve().parents[1] / "models"


@pytest.mark.parametrize(("name", "dtype"), [("simple", np.int32), ("simple_int8", np.int8)])
def test_simple_adds_and_subtracts(name: str, dtype: type) -> None:
    """Sums and differences have the datatype of the inputs; bytes wrap around."""
    first: Any = np.arange(120, 136).astype(dtype).reshape(1, 16)
    second: Any = np.ones((1, 16), dtype)

    with opened(MODELS / name) as simple:
        outputs = simple(INPUT0=first, INPUT1=second)

    assert outputs["OUTPUT0"].dtype == dtype
    np.testing.assert_array_equal(outputs["OUTPUT0"], first + second)
    np.testing.assert_array_equal(outputs["OUTPUT1"], first - second)


def test_simple_string_reckons_with_numbers_as_text() -> None:
    """The numbers of both inputs are text, and so are sums and differences."""
    first = np.array([[str(n).encode() for n in range(16)]], dtype=object)
    second = np.array([[b"1"] * 16], dtype=object)

    with opened(MODELS / "simple_string") as simple_string:
        outputs = simple_string(INPUT0=first, INPUT1=second)

    assert outputs["OUTPUT0"].tolist() == [[str(n + 1).encode() for n in range(16)]]
    assert outputs["OUTPUT1"].tolist() == [[str(n - 1).encode() for n in range(16)]]


def test_simple_identity_gives_back_any_bytes() -> None:
    """Bytes that are no text come back as they were."""
    data = np.array([[b"", b"\x00\xff", "ä".encode()]], dtype=object)

    with opened(MODELS / "simple_identity") as simple_identity:
        outputs = simple_identity(INPUT0=data)

    assert outputs["OUTPUT0"].tolist() == data.tolist()


def test_repeat_int32_streams_the_elements() -> None:
    """One response per element, in order."""
    with opened(MODELS / "repeat_int32") as repeat:
        responses = repeat.responses(
            IN=np.array([7, 8], np.int32),
            DELAY=np.zeros(2, np.uint32),
            WAIT=np.zeros(1, np.uint32),
        )

    assert [(int(r["OUT"][0]), int(r["IDX"][0])) for r in responses] == [(7, 0), (8, 1)]


def test_the_benchmarks_differ_only_in_their_servers(tmp_path: Path) -> None:
    """mlp and mlp_nb are one network, the second without a batcher; stream100 answers 100 times."""
    pytest.importorskip("torch")
    repository = build_repository.build(tmp_path / "repository")
    rows = np.random.default_rng(0).random((3, 784), dtype=np.float32)
    row = np.ones((1, 16), np.float32)

    with opened(repository / "mlp") as mlp, opened(repository / "mlp_nb") as plain:
        batched, unbatched = mlp(INPUT0=rows), plain(INPUT0=rows)
    with opened(repository / "stream100") as stream:
        responses = stream.responses(INPUT0=row)

    assert mlp.config.dynamic_batching is not None
    assert plain.config.dynamic_batching is None
    np.testing.assert_array_equal(batched["OUTPUT0"], unbatched["OUTPUT0"])
    assert [response["OUTPUT0"].tolist() for response in responses] == [row.tolist()] * 100
