"""Laws of the memory that a server and a process share."""

import gc
import os
import socket
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock_runtime.isolation.child_memory import ChildMemory
from penstock_runtime.isolation.frames import Channel, Kind
from penstock_runtime.isolation.freelist import FreeList, rounded
from penstock_runtime.isolation.memory import ServerMemory
from penstock_runtime.isolation.segments import (
    IDLE_S,
    SMALLEST,
    Arena,
    Segment,
    create_memory,
    segment_size,
)

STEPS = st.lists(st.integers(1, 5000) | st.integers(-20, -1), max_size=60)


@given(STEPS)
def test_ranges_that_are_taken_never_touch_and_all_comes_back(steps: list[int]) -> None:
    """Whatever is taken and given back in whatever order, nothing is taken twice or lost."""
    free, taken = FreeList(1 << 14), {}
    for step in steps:
        if step > 0:
            start = free.take(step)
            if start is not None:
                taken[start] = rounded(step)
        elif taken:
            start = list(taken)[step % len(taken)]
            assert free.give(start)
            del taken[start]
        edges = sorted(taken.items())
        ends = [start + size for start, size in edges]
        assert all(end <= start for end, (start, _) in zip(ends, edges[1:], strict=False))
        assert free.used == sum(taken.values())
    for start in taken:
        assert free.give(start)

    assert free.empty
    assert free.take(1 << 14) == 0


def test_what_was_not_taken_cannot_be_given() -> None:
    """Twice is once too often."""
    free = FreeList(1024)
    start = free.take(10)

    assert start is not None
    assert free.give(start)
    assert not free.give(start)
    assert not free.give(64)


def made(size: int) -> Segment:
    """A segment of its own."""
    fd = create_memory(size)
    try:
        return Segment(fd, size)
    finally:
        os.close(fd)


def test_an_arena_grows_by_need_within_its_bound_and_is_given_back_when_idle() -> None:
    """No room is None; a segment that nobody needed for a while goes, one in use stays."""
    now, numbers = [0.0], iter(range(1, 10))

    def more(need: int, held: int) -> tuple[int, Segment] | None:
        size = segment_size(need)
        return (next(numbers), made(size)) if held + size <= 3 << 20 else None

    arena = Arena(more, lambda: now[0])
    small, large = arena.take(100), arena.take((1 << 20) + 1)

    assert small is not None
    assert large is not None
    assert arena.size == 3 << 20
    assert arena.take(2 << 20) is None
    assert arena.give(large[0].segment, large[0].start)
    assert not arena.give(large[0].segment, large[0].start)
    assert arena.trim() == []
    now[0] = IDLE_S
    assert arena.trim() == [large[0].segment]
    assert (arena.size, arena.used) == (SMALLEST, rounded(100))


def test_memory_can_be_made_neither_smaller_nor_larger() -> None:
    """Who reads it can rely on that it is there, whatever the other side does."""
    fd = create_memory(1 << 20)
    try:
        for size in (0, 1 << 21):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, size)
    finally:
        os.close(fd)


class Pair:
    """Both ends of a channel, with the memory of each."""

    def __init__(self, limit: int) -> None:
        ours, theirs = socket.socketpair()
        self.sockets = ours, theirs
        self.ours, self.theirs = Channel(ours), Channel(theirs, takes_fds=True)
        self.server = ServerMemory(self.ours, limit)
        self.child = ChildMemory(self.theirs)

    def to_child(self) -> None:
        """Have the child take the next message."""
        frame = self.theirs.receive()
        assert frame is not None
        self.child.take(frame)


@pytest.fixture
def pair() -> Iterator[Pair]:
    """One with room for two segments."""
    made = Pair(2 << 20)
    yield made
    for end in made.sockets:
        end.close()


def test_the_process_reads_what_was_written_and_cannot_write_there(pair: Pair) -> None:
    """Views of the server's memory are read-only, down to the mapping."""
    taken = pair.server.arena.take(4)
    assert taken is not None
    taken[1][:] = b"abcd"
    pair.to_child()
    note = {"tensors": [["x", "UINT8", [4], 0, 4]], "block": taken[0]}
    pair.ours.send(Kind.EXECUTE, 1, note)
    frame = pair.theirs.receive()
    assert frame is not None

    array = pair.child.arrays(frame)["x"]

    assert array.tobytes() == b"abcd"
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True


def test_a_block_is_free_once_no_view_of_it_is_left(pair: Pair) -> None:
    """Slices, reshapes and other types of the arrays keep it; the last of them lets it go."""
    taken = pair.server.arena.take(16)
    assert taken is not None
    pair.to_child()
    note = {"tensors": [["x", "UINT8", [16], 0, 16]], "block": taken[0]}
    pair.ours.send(Kind.EXECUTE, 1, note)
    frame = pair.theirs.receive()
    assert frame is not None

    view = pair.child.arrays(frame)["x"].reshape(4, 4)[1:].view(np.int32)
    gc.collect()
    held = pair.child.take_freed()
    del view
    freed = pair.child.take_freed()

    assert held == []
    assert freed == [(taken[0].segment, taken[0].start)]
    pair.server.freed([list(freed[0])])
    assert pair.server.arena.used == 0


def test_what_the_process_needs_is_made_up_to_the_limit(pair: Pair) -> None:
    """Beyond it the answer is no, and nothing waits."""
    for _ in range(2):
        pair.server.need(1000)
        pair.to_child()
    pair.server.need(1000)
    last = pair.theirs.receive()

    assert last is not None
    assert last.kind is Kind.NO_SEGMENT
    assert pair.server.size == 2 << 20
    pair.server.dropped(1)
    assert pair.server.size == 1 << 20
