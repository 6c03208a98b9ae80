"""What every kernel must do, whoever executes it: arguments to draw, and a check against float64.

One law per kernel, shared by the tests of the reference, of the executor and of a GPU. What a
kernel must not read is NaN or 0xff; outputs are poisoned before it runs.
"""

from typing import Any

import numpy as np
from hypothesis import strategies as st
from tests.kernels.law import BF16, F16, F32, FLOATS, SEEDS, Arguments, Law, near, normal
from tests.kernels.laws_cache import CACHE_LAWS
from tests.kernels.laws_decode import DECODE_LAWS
from tests.kernels.laws_sample import check_sampling, samplings
from tests.kernels.laws_verify import VERIFY_LAWS

# -- gather and scatter ----------------------------------------------------------------------------

GATHERED = [
    (F32, F16),
    (F32, BF16),
    (F32, F32),
    (F16, F16),
    (BF16, BF16),
    (np.dtype(np.int64), np.dtype(np.int32)),
    (np.dtype(np.int64), np.dtype(np.int64)),
    (np.dtype(np.int32), np.dtype(np.int32)),
    (np.dtype(np.uint8), F16),
    (np.dtype(np.uint8), np.dtype(np.uint8)),
]
SCATTERED = [
    (F16, F32),
    (BF16, F32),
    (F32, F32),
    (F16, F16),
    (BF16, BF16),
    (np.dtype(np.int32), np.dtype(np.int64)),
    (np.dtype(np.int64), np.dtype(np.int64)),
    (np.dtype(np.int32), np.dtype(np.int32)),
    (np.dtype(np.uint8), np.dtype(np.uint8)),
]
# 1; beside the eight of a thread; beside the 2048 of a block.
WIDTHS = st.sampled_from([1, 7, 8, 9, 64, 100]) | st.sampled_from([2047, 2056])
COUNTS = st.lists(st.sampled_from([0, 1, 5, 8, 16, 33, 64, 100, 3000]), min_size=1, max_size=4)


def some_values(random: Any, size: int, dtype: Any) -> Any:
    if dtype.kind in "iu":
        return random.integers(0, 200, size).astype(dtype)
    return normal(random, size, F32).astype(dtype)


def packed(random: Any, parts: list[Any], gap: int) -> tuple[Any, Any]:
    """Rows in a slab, `gap` elements of 0xff between them; and where each begins."""
    size = parts[0].dtype.itemsize
    starts, content, at = [], b"", 0
    for part in parts:
        content += b"\xff" * (gap * size)
        starts.append(len(content))
        content += part.tobytes()
    return np.frombuffer(content + b"\xff" * at, np.uint8).copy(), np.array(starts, np.int64)


@st.composite
def gathers(draw: st.DrawFn) -> Arguments:
    source, goal = draw(st.sampled_from(GATHERED))
    random = np.random.default_rng(draw(SEEDS))
    counts, width = draw(COUNTS), draw(WIDTHS)
    parts = [some_values(random, count, source) for count in counts]
    slab, start = packed(random, parts, draw(st.integers(0, 3)))
    out = np.zeros((len(counts), width), goal)
    return {
        "slab": slab,
        "start": start,
        "count": np.array(counts, np.int32),
        "dtype": source,
        "out": out,
        "mask": np.zeros(out.shape, np.uint8) if draw(st.booleans()) else None,
        "pad": draw(st.sampled_from([0.0, 1.0, 3.0])),
    }


def check_gather(before: Arguments, after: Arguments) -> None:
    out, mask, dtype = after["out"], after["mask"], before["dtype"]
    for row, (start, count) in enumerate(zip(before["start"], before["count"], strict=True)):
        whole = np.frombuffer(before["slab"].tobytes(), dtype, count, start)
        own = whole[: out.shape[1]].astype(out.dtype)
        assert out[row, : own.size].tobytes() == own.tobytes()
        assert (out[row, own.size :].astype(float) == before["pad"]).all()
        if mask is not None:
            assert mask[row].tolist() == [1] * own.size + [0] * (out.shape[1] - own.size)


@st.composite
def scatters(draw: st.DrawFn) -> Arguments:
    source, goal = draw(st.sampled_from(SCATTERED))
    random = np.random.default_rng(draw(SEEDS))
    width = draw(WIDTHS)
    counts = [min(count, width) for count in draw(COUNTS)]
    batch = some_values(random, len(counts) * width, source).reshape(-1, width)
    room = [np.zeros(count, goal) for count in counts]
    slab, start = packed(random, room, draw(st.integers(0, 3)))
    return {
        "batch": batch,
        "start": start,
        "count": np.array(counts, np.int32),
        "dtype": goal,
        "slab": slab,
    }


def check_scatter(before: Arguments, after: Arguments) -> None:
    wanted = bytearray(before["slab"].tobytes())
    rows = zip(before["batch"], before["start"].tolist(), before["count"].tolist(), strict=True)
    for row, start, count in rows:
        own = row[:count].astype(before["dtype"]).tobytes()
        wanted[start : start + len(own)] = own
    assert after["slab"].tobytes() == bytes(wanted)


# -- softmax and the highest -----------------------------------------------------------------------


@st.composite
def classifications(draw: st.DrawFn) -> Arguments:
    dtype, softmax = draw(st.sampled_from(FLOATS)), draw(st.booleans())
    random = np.random.default_rng(draw(SEEDS))
    rows, width = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 31, 256, 300, 700]))
    # Few values, so that many are equal.
    values = random.integers(-9, 9, (rows, width)).astype(F32) / 4
    odd = [0.0, -0.0, float("inf"), float("-inf"), float("nan")]
    if not softmax and draw(st.booleans()):
        spots = random.random(values.shape) < 0.3
        values[spots] = random.choice(odd, spots.sum())
    k = draw(st.integers(1, min(width, 5)))
    return {
        "values": values.astype(dtype),
        "scores": np.zeros((rows, k), F32),
        "columns": np.zeros((rows, k), np.int32),
        "softmax": softmax,
    }


def check_classification(before: Arguments, after: Arguments) -> None:
    for row, scores, columns in zip(
        before["values"].astype(float), after["scores"], after["columns"], strict=True
    ):
        order = highest_first(row.tolist())
        assert columns.tolist() == order[: len(columns)]
        if before["softmax"]:
            e = np.exp(row - row.max())
            near(scores, (e / e.sum())[columns], F32)
        else:
            np.testing.assert_array_equal(scores, row[columns].astype(F32))


def highest_first(row: list[float]) -> list[int]:
    """Columns by Python's own stable sort; what is not a number has no place but the end."""
    numbers = [column for column, value in enumerate(row) if value == value]
    rest = [column for column, value in enumerate(row) if value != value]
    return sorted(numbers, key=lambda column: -row[column]) + rest


# -- pooling ---------------------------------------------------------------------------------------


@st.composite
def poolings(draw: st.DrawFn) -> Arguments:
    random = np.random.default_rng(draw(SEEDS))
    rows, length = draw(st.integers(1, 2)), draw(st.sampled_from([0, 1, 3, 6]))
    width = draw(st.sampled_from([1, 5, 8, 24, 264]) | st.just(3000))
    mask = random.integers(0, 2, (rows, length)).astype(draw(st.sampled_from(["i8", "i4"])))
    states = normal(random, (rows, length, width), draw(st.sampled_from(FLOATS)))
    states[mask == 0] = np.nan
    out = np.zeros((rows, width), F32)
    return {"states": states, "mask": mask, "out": out, "normalise": draw(st.booleans())}


def check_pooling(before: Arguments, after: Arguments) -> None:
    for row, mask, out in zip(before["states"], before["mask"], after["out"], strict=True):
        own = row[mask != 0].astype(float)
        mean = own.sum(axis=0) / max(len(own), 1)
        length = np.sqrt(np.square(mean).sum())
        near(out, mean / max(length, 1e-12) if before["normalise"] else mean, F32)


# -- images ----------------------------------------------------------------------------------------


@st.composite
def images(draw: st.DrawFn) -> Arguments:
    random = np.random.default_rng(draw(SEEDS))
    sides = st.sampled_from([1, 2, 3, 7, 16, 40])
    sizes = draw(st.lists(st.tuples(sides, sides), min_size=1, max_size=3))
    parts = [random.integers(0, 256, h * w * 3).astype(np.uint8) for h, w in sizes]
    slab, start = packed(random, parts, draw(st.integers(0, 5)))
    shape = (len(sizes), 3, draw(sides), draw(sides | st.just(130)))
    return {
        "slab": slab,
        "start": start,
        "size": np.array(sizes, np.int32),
        "scale": random.uniform(0.01, 0.02, 3).astype(F32),
        "shift": random.uniform(-2, 2, 3).astype(F32),
        "out": np.zeros(shape, draw(st.sampled_from(FLOATS))),
    }


def check_image(before: Arguments, after: Arguments) -> None:
    for i, (h, w) in enumerate(before["size"].tolist()):
        begin, out = int(before["start"][i]), after["out"][i]
        pixels = before["slab"][begin : begin + h * w * 3].reshape(h, w, 3).astype(float)
        resized = stretch(stretch(pixels, out.shape[1]).swapaxes(0, 1), out.shape[2]).swapaxes(0, 1)
        exact = resized * before["scale"].astype(float) + before["shift"].astype(float)
        near(out, exact.transpose(2, 0, 1), out.dtype)


def stretch(lines: Any, wanted: int) -> Any:
    """Along the first axis, as a weighted sum of all lines: a tent around each."""
    own = len(lines)
    at = np.clip((np.arange(wanted) + 0.5) * own / wanted - 0.5, 0, own - 1)
    weights = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(own)))
    return np.tensordot(weights, lines, 1)


# -- quantisation ----------------------------------------------------------------------------------

BITS = st.sampled_from([8, 4])
GROUPS = st.tuples(st.sampled_from([1, 3, 9]), st.sampled_from([2, 32, 34, 128]))


def some_groups(draw: st.DrawFn) -> tuple[int, int, int]:
    """Groups, elements of each, bits: an odd number only where no two share a byte."""
    (groups, group), bits = draw(GROUPS), draw(BITS)
    return groups, group - draw(st.integers(0, 1)) if bits == 8 else group, bits


@st.composite
def quantisations(draw: st.DrawFn) -> Arguments:
    random, (groups, group, bits) = np.random.default_rng(draw(SEEDS)), some_groups(draw)
    x = normal(random, (groups, group), draw(st.sampled_from(FLOATS)))
    if draw(st.booleans()):
        x[0] = 0
    return {
        "x": x,
        "packed": np.zeros((groups, group * bits // 8), np.uint8),
        "scale": np.zeros(groups, F32),
        "bits": bits,
    }


def unpacked(packed_bytes: Any, bits: int) -> Any:
    """[groups, bytes] -> signed integers, by arithmetic and not by shifts."""
    wide = packed_bytes.astype(np.int64)
    halves = wide if bits == 8 else np.stack([wide % 16, wide // 16], -1).reshape(len(wide), -1)
    return np.where(halves >= 2 ** (bits - 1), halves - 2**bits, halves)


def check_quantisation(before: Arguments, after: Arguments) -> None:
    """No element is further from its integer than half a step, and a little for the rounding."""
    x, bits = before["x"].astype(float), before["bits"]
    limit = 2 ** (bits - 1) - 1
    q = unpacked(after["packed"], bits)
    near(after["scale"], np.abs(x).max(axis=1) / limit, F32)
    assert np.abs(q).max() <= limit
    step = after["scale"].astype(float)[:, None]
    assert (np.abs(x - q * step) <= step * (0.5 + 1e-4)).all()


@st.composite
def dequantisations(draw: st.DrawFn) -> Arguments:
    random, (groups, group, bits) = np.random.default_rng(draw(SEEDS)), some_groups(draw)
    return {
        "packed": random.integers(0, 256, (groups, group * bits // 8)).astype(np.uint8),
        "scale": random.uniform(0, 2, groups).astype(F32),
        "out": np.zeros((groups, group), draw(st.sampled_from(FLOATS))),
        "bits": bits,
    }


def check_dequantisation(before: Arguments, after: Arguments) -> None:
    exact = unpacked(before["packed"], before["bits"]) * before["scale"].astype(float)[:, None]
    near(after["out"], exact, after["out"].dtype)


# -- a transformer's layer -------------------------------------------------------------------------


@st.composite
def norms(draw: st.DrawFn) -> Arguments:
    random, dtype = np.random.default_rng(draw(SEEDS)), draw(st.sampled_from(FLOATS))
    shape = draw(st.integers(1, 2)), draw(st.sampled_from([8, 64, 1024, 1032, 4104]))
    return {
        "x": normal(random, shape, dtype),
        "residual": normal(random, shape, dtype),
        "weight": normal(random, shape[1], dtype),
        "out": np.zeros(shape, dtype),
        "epsilon": 1e-6,
    }


def check_norm(before: Arguments, after: Arguments) -> None:
    dtype = before["x"].dtype
    near(after["residual"], before["x"].astype(float) + before["residual"].astype(float), dtype)
    residual = after["residual"].astype(float)
    scale = np.sqrt(np.square(residual).mean(axis=1, keepdims=True) + before["epsilon"])
    near(after["out"], residual / scale * before["weight"].astype(float), dtype)


@st.composite
def gates(draw: st.DrawFn) -> Arguments:
    random, dtype = np.random.default_rng(draw(SEEDS)), draw(st.sampled_from(FLOATS))
    rows, width = draw(st.integers(1, 3)), draw(st.sampled_from([8, 24, 2056]))
    both = normal(random, (rows, 2 * width), F32) * draw(st.sampled_from([1, 30]))
    return {"both": both.astype(dtype), "out": np.zeros((rows, width), dtype)}


def check_gate(before: Arguments, after: Arguments) -> None:
    gate, up = np.split(before["both"].astype(float), 2, axis=1)
    with np.errstate(over="ignore"):
        near(after["out"], gate / (1 + np.exp(-gate)) * up, after["out"].dtype)


LAWS = [
    Law("gather_pad", gathers(), check_gather),
    Law("scatter_rows", scatters(), check_scatter, kept=("slab",)),
    Law("top_k", classifications(), check_classification),
    Law("mean_pool", poolings(), check_pooling),
    Law("image_normalise", images(), check_image),
    Law("quantise", quantisations(), check_quantisation),
    Law("dequantise", dequantisations(), check_dequantisation),
    Law("rmsnorm_residual", norms(), check_norm, kept=("residual",)),
    Law("silu_mul", gates(), check_gate),
    Law("sample", samplings(FLOATS), check_sampling),
    *CACHE_LAWS,
    *DECODE_LAWS,
    *VERIFY_LAWS,
]
