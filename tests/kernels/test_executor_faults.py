"""Laws of the executor's teeth: each planted fault is found, and its corrected twin passes."""

import platform
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
from tests.kernels.executor import HERE, ORDERS, launch, needs_compiler, planted

from penstock_kernels.declare import int32
from penstock_kernels.emulate.memory import MemoryRuleError
from penstock_kernels.emulate.module import KernelFault, Module

pytestmark = needs_compiler

X86 = platform.machine() == "x86_64"
X = np.arange(640, dtype=np.float32) + 1
SHIFTED = np.roll(X[:64], -1)
SUMS = X.reshape(10, 64)[:, ::-1].sum(axis=0, dtype=np.float32)
ONES = np.ones(32, np.float32)
# Bytes as the last of 1024 to 1279, and what they are above 1152.
WORDS = (np.arange(32, dtype=np.uint32) * 7 + 0x6400) << np.uint32(16) | np.uint32(0x6400)
LEVELS = np.arange(32, dtype=np.float32) * 7 - 128


@dataclass(frozen=True, slots=True)
class Case:
    """A planted kernel: what it takes around its output, and what it should have given."""

    name: str
    before: tuple[Any, ...] = ()
    after: tuple[Any, ...] = ()
    right: Any = None
    threads: int = 32
    blocks: int = 1
    shared: int = 0
    output: int = 256


REPORTED = [
    (Case("reads_past_the_end", (X[:64].copy(),), threads=64), "memory fault"),
    (Case("reads_before_the_start", (X[:4].copy(),), threads=1), "memory fault"),
    (Case("writes_an_input", (X[:32].copy(),)), "memory fault"),
    (Case("null_argument", (None,)), "memory fault"),
    (Case("past_dynamic_shared", shared=128), "memory fault"),
    (Case("barrier_in_a_branch"), "barrier after some threads of the block returned"),
    (Case("two_barriers"), "different barriers"),
    (Case("shuffle_in_a_branch"), "not every named thread reaches"),
    (Case("shuffle_outside_its_mask"), "not named in its own mask"),
    (Case("multiply_in_a_branch"), "not every named thread reaches"),
    (Case("misaligned_load", (X,), threads=8), "misaligned vector load"),
    (Case("copy_never_waited_for", (X,)), "without waiting for its asynchronous copies"),
    # Other processors give 0 and go on.
    *([(Case("divides_by_zero", after=(int32(0),)), "division by zero")] if X86 else []),
]
WRONG = [
    Case("barrier_missing", (X[:64].copy(),), right=SHIFTED, threads=64),
    Case("loop_without_second_barrier", (X,), (int32(10),), SUMS, threads=64),
    Case("warp_runs_ahead", (X,), (int32(10),), np.full(64, X.sum()), threads=64),
    Case("past_static_shared", after=(int32(8),), right=ONES),
    Case("reads_an_unnamed_lane", right=ONES[:16]),
    Case("shared_never_written", right=ONES),
    Case("shared_of_the_block_before", right=np.ones(64), blocks=2),
    Case("copy_read_before_its_wait", (X,), right=X[:32]),
    Case("sum_without_atomics", right=ONES[:1] * 32),
    Case("halves_subtracted_as_one", (WORDS,), right=LEVELS),
]
RIGHT = [
    Case("barrier_present", (X[:64].copy(),), right=SHIFTED, threads=64),
    Case("loop_with_second_barrier", (X,), (int32(10),), SUMS, threads=64),
    Case("copy_waited_for", (X,), right=X[:32]),
    Case("sum_with_atomics", right=ONES[:1] * 32),
    Case("halves_subtracted_apart", (WORDS,), right=LEVELS),
    Case("shuffle_of_its_mask", right=[i ^ 2 if i % 2 else i for i in range(32)]),
]
OTHERS = ["writes_just_past_the_end", "writes_just_before_the_start", "last_writer_wins"]
NAMES = [c.name for c, _ in REPORTED] + [c.name for c in WRONG + RIGHT] + OTHERS


@cache
def module() -> Module:
    return planted("faults.cu", NAMES)


def run(case: Case, order: int) -> Any:
    out = np.full(case.output, -7, np.float32)
    launch(
        module(),
        case.name,
        (*case.before, out, *case.after),
        (out,),
        threads=case.threads,
        blocks=case.blocks,
        shared=case.shared,
        order=order,
    )
    return out[: len(case.right)] if case.right is not None else out


def name_of(case: Any) -> str:
    return str(getattr(case, "name", ""))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("case", "rule"), REPORTED, ids=name_of)
def test_a_broken_rule_is_named_with_its_thread(case: Case, rule: str, order: int) -> None:
    """In whatever order threads run, the report says the rule, the block and the thread."""
    with pytest.raises(KernelFault, match=rf"{rule}.*block \(0,0,0\) thread \(\d+,0,0\)"):
        run(case, order)


@pytest.mark.parametrize("case", WRONG, ids=name_of)
def test_a_fault_of_memory_or_order_gives_a_wrong_answer(case: Case) -> None:
    """Poison and the order of threads bring to light what a lucky run hides."""
    answers = [run(case, order) for order in ORDERS]

    assert not all(np.array_equal(answer, case.right) for answer in answers)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", RIGHT, ids=name_of)
def test_the_corrected_twin_passes(case: Case, order: int) -> None:
    """What is legal is never reported, in any order."""
    np.testing.assert_array_equal(run(case, order), case.right)


def test_orders_differ_where_the_last_writer_wins() -> None:
    """A race on global memory shows as different answers of different orders."""
    answers = {float(run(Case("last_writer_wins"), order)[0]) for order in ORDERS}

    assert len(answers) > 1


def test_a_write_into_the_bytes_before_the_guard_is_found() -> None:
    """An array whose end is not aligned has no page directly behind it; its canary is checked."""
    out = np.zeros(3, np.float32)

    with pytest.raises(MemoryRuleError, match="beside an array of 12 bytes"):
        launch(module(), "writes_just_past_the_end", (out, int32(3)), (out,), threads=1)
    with pytest.raises(MemoryRuleError, match="beside an array of 12 bytes"):
        launch(module(), "writes_just_before_the_start", (out,), (out,), threads=1)


def test_a_fault_says_the_line_of_the_source() -> None:
    """Lines are those of the file that the author edits, headers or not."""
    lines = (HERE / "planted" / "faults.cu").read_text().splitlines()
    line = 1 + next(i for i, text in enumerate(lines) if "load_vector<F4>" in text)

    with pytest.raises(KernelFault, match=f"faults.cu:{line}"):
        run(Case("misaligned_load", (X,), threads=8), 0)


def test_after_a_fault_the_next_launch_is_right() -> None:
    """A kernel that was left half way does not spoil the one after it."""
    for case, _ in REPORTED:
        with pytest.raises(KernelFault):
            run(case, 0)
        np.testing.assert_array_equal(run(RIGHT[0], 0), SHIFTED)


IMPOSSIBLE: list[tuple[dict[str, int], str]] = [
    ({"threads": 1025}, "a block of 1025 threads, expected 1 to 1024"),
    ({"blocks": 0}, "a grid of"),
    ({"shared": 300_000}, "300000 bytes of shared memory"),
]


@pytest.mark.parametrize(("geometry", "message"), IMPOSSIBLE)
def test_a_launch_that_no_device_takes_is_refused(geometry: dict[str, int], message: str) -> None:
    """Block, grid and shared memory have the limits of a device."""
    out = np.zeros(1, np.float32)

    with pytest.raises(KernelFault, match=message):
        launch(module(), "last_writer_wins", (out,), (out,), **geometry)


def test_a_kernel_is_given_as_many_arguments_as_it_takes() -> None:
    """One argument too few would be read from wherever the next pointer lies."""
    with pytest.raises(TypeError, match="given 0 arguments, expected 1"):
        launch(module(), "last_writer_wins", (), ())
