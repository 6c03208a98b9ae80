"""Laws of the table of shared memory regions."""

import threading

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from tests.runtime.region_fakes import FakeSegment

from penstock_runtime.errors import (
    AlreadyExists,
    Internal,
    InvalidArgument,
    NotFound,
    PenstockError,
    ResourceExhausted,
    Unavailable,
)
from penstock_runtime.memory.places import Place
from penstock_runtime.memory.shared import (
    MAX_NAME,
    Kind,
    RegionTable,
    RegionUse,
    Registration,
    SegmentError,
)

NAMES = ("a", "b", "c")
LIMIT = 4


def registered(
    table: RegionTable, name: str = "a", size: int = 64, kind: Kind = Kind.SYSTEM
) -> FakeSegment:
    """A region of this name, and the memory that stands for it."""
    segment = FakeSegment(size)
    table.register(Registration(name, kind, size), lambda: segment)
    return segment


def names(table: RegionTable, kind: Kind = Kind.SYSTEM) -> list[str]:
    """What is registered."""
    return [registration.name for registration in table.status(kind)]


class RegionMachine(RuleBasedStateMachine):
    """Register, use, release and unregister in any order: nothing is closed while it is used, and
    nothing stays open that nobody can use.
    """

    uses = Bundle("uses")

    def __init__(self) -> None:
        super().__init__()
        self.table = RegionTable(LIMIT)
        self.listed: dict[str, tuple[Kind, FakeSegment]] = {}
        self.users: dict[FakeSegment, int] = {}

    @rule(name=st.sampled_from(NAMES), kind=st.sampled_from(Kind))
    def register(self, name: str, kind: Kind) -> None:
        full = sum(not segment.closed for segment in self.users) >= LIMIT
        segment = FakeSegment()
        try:
            self.table.register(Registration(name, kind, 64), lambda: segment)
        except AlreadyExists:
            assert name in self.listed
        except ResourceExhausted:
            assert full
            assert name not in self.listed
        else:
            assert name not in self.listed
            assert not full
            self.listed[name] = (kind, segment)
            self.users[segment] = 0

    @rule(target=uses, name=st.sampled_from(NAMES))
    def use(self, name: str) -> tuple[RegionUse, FakeSegment] | None:
        try:
            found = self.table.use(Place(name, 8))
        except NotFound:
            assert name not in self.listed
            return None
        segment = self.listed[name][1]
        self.users[segment] += 1
        return found, segment

    @rule(taken=consumes(uses))
    def release(self, taken: tuple[RegionUse, FakeSegment] | None) -> None:
        if taken is not None:
            use, segment = taken
            assert len(use.read()) == 8
            use.close()
            use.close()
            self.users[segment] -= 1

    @rule(name=st.sampled_from(("", *NAMES)), kind=st.sampled_from(Kind))
    def unregister(self, name: str, kind: Kind) -> None:
        self.table.unregister(kind, name)
        for each in list(self.listed):
            if self.listed[each][0] is kind and name in ("", each):
                del self.listed[each]

    @invariant()
    def what_is_open_is_what_can_be_used(self) -> None:
        listed = {segment for _, segment in self.listed.values()}
        for segment, users in self.users.items():
            assert segment.closed == (segment not in listed and not users)
        assert self.table.open_regions == sum(not segment.closed for segment in self.users)
        for kind in Kind:
            expected = sorted(name for name, (of, _) in self.listed.items() if of is kind)
            assert names(self.table, kind) == expected

    def teardown(self) -> None:
        """At the end nothing is left open but what is still used."""
        self.table.close()
        for segment, users in self.users.items():
            assert segment.closed == (not users)


RegionMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestRegions = RegionMachine.TestCase


def test_a_name_is_taken_once_whatever_it_names() -> None:
    """System and CUDA memory share their names; the first registration stays as it was."""
    table = RegionTable(LIMIT)
    first = registered(table)
    second = FakeSegment()

    with pytest.raises(AlreadyExists) as refused:
        table.register(Registration("a", Kind.CUDA, 64), lambda: second)

    assert refused.value.message == "shared memory region 'a' already in manager"
    assert not first.closed
    assert table.open_regions == 1


def test_no_more_regions_are_open_than_the_limit_those_in_use_included() -> None:
    """A region that is only kept for who uses it counts, so that registering and unregistering over
    and over opens no more.
    """
    table = RegionTable(1)
    registered(table)
    use = table.use(Place("a", 1))
    table.unregister(Kind.SYSTEM, "a")

    with pytest.raises(ResourceExhausted) as refused:
        registered(table, "b")
    use.close()
    registered(table, "b")

    assert "1 regions are open" in refused.value.message
    assert names(table) == ["b"]


@pytest.mark.parametrize("name", ["", "x" * (MAX_NAME + 1)])
def test_a_name_has_a_length(name: str) -> None:
    """None would be all when it is unregistered, and any length would be kept."""
    with pytest.raises(InvalidArgument, match="expected 1 to 1024"):
        registered(RegionTable(LIMIT), name)


def test_a_memory_that_cannot_be_opened_leaves_nothing() -> None:
    """The error is passed on, and the name is free."""
    table = RegionTable(LIMIT)

    def fails() -> FakeSegment:
        raise Internal("no")

    with pytest.raises(Internal):
        table.register(Registration("a", Kind.SYSTEM, 64), fails)
    registered(table)

    assert table.open_regions == 1


@pytest.mark.parametrize(
    ("place", "text"),
    [
        (Place("a", 64), ""),
        (Place("a", 0, 64), ""),
        (Place("a", 32, 32), ""),
        (Place("a", 1, 65), "Invalid offset for shared memory region: 'a'"),
        (Place("a", 1, -1), "Invalid offset for shared memory region: 'a'"),
        (Place("a", 1, 1 << 63), "Invalid offset for shared memory region: 'a'"),
        (Place("a", 65), "Invalid offset + byte size for shared memory region: 'a'"),
        (Place("a", 64, 1), "Invalid offset + byte size for shared memory region: 'a'"),
        (Place("a", -1), "Invalid offset + byte size for shared memory region: 'a'"),
        (
            Place("a", (1 << 64) - 32, 32),
            "Invalid offset + byte size for shared memory region: 'a'",
        ),
        (Place("b", 1), "Unable to find shared memory region: 'b'"),
    ],
)
def test_a_place_is_within_its_region(place: Place, text: str) -> None:
    """Nothing overflows, and what does not fit is not used."""
    table = RegionTable(LIMIT)
    registered(table)
    found = ""

    for ask in (table.check, table.use):
        try:
            ask(place)
        except PenstockError as error:
            found = error.message

        assert found == text


def test_a_place_is_read_and_written_where_it_lies() -> None:
    """At its offset, and nothing beside it."""
    table = RegionTable(LIMIT)
    segment = registered(table)
    use = table.use(Place("a", 4, 8))

    use.write(b"1234")

    assert bytes(use.read()) == b"1234"
    assert segment.data == bytes(8) + b"1234" + bytes(52)


def test_memory_that_has_become_smaller_is_refused_at_its_use() -> None:
    """The registration is no promise of the client's: InvalidArgument, for reading and writing."""
    table = RegionTable(LIMIT)
    segment = registered(table)
    use = table.use(Place("a", 64))
    del segment.data[32:]

    with pytest.raises(InvalidArgument, match=r"Invalid offset \+ byte size"):
        use.read()
    with pytest.raises(InvalidArgument, match=r"Invalid offset \+ byte size"):
        use.write(bytes(64))


def test_what_the_system_says_of_a_fault_is_for_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """The caller is told which region it was, and no more."""
    table = RegionTable(LIMIT)

    class Broken(FakeSegment):
        def read(self, offset: int, size: int) -> memoryview:
            raise SegmentError("secret of the machine")

    table.register(Registration("a", Kind.SYSTEM, 64), Broken)
    with pytest.raises(Internal) as refused:
        table.use(Place("a", 1)).read()

    assert refused.value.message == "shared memory region 'a' cannot be read"
    assert "secret of the machine" in caplog.text


def test_a_use_that_is_forgotten_is_no_use() -> None:
    """What nobody can close any more is closed."""
    table = RegionTable(LIMIT)
    segment = registered(table)
    use = table.use(Place("a", 1))
    table.unregister(Kind.SYSTEM, "a")
    held = segment.closed

    del use

    assert not held
    assert segment.closed


def test_a_name_can_be_taken_again_while_the_old_region_is_used() -> None:
    """Who uses the old one goes on with it; who comes now finds the new one."""
    table = RegionTable(LIMIT)
    registered(table).data[:1] = b"1"
    old = table.use(Place("a", 1))
    table.unregister(Kind.SYSTEM, "a")
    registered(table).data[:1] = b"2"

    new = table.use(Place("a", 1))

    assert (bytes(old.read()), bytes(new.read())) == (b"1", b"2")


def test_the_status_of_a_region_is_that_of_its_kind() -> None:
    """By name, in their order; a region of the other kind is none of this one."""
    table = RegionTable(LIMIT)
    registered(table, "b")
    registered(table, "a")
    registered(table, "g", kind=Kind.CUDA)

    with pytest.raises(NotFound) as system:
        table.status(Kind.SYSTEM, "g")
    with pytest.raises(NotFound) as cuda:
        table.status(Kind.CUDA, "a")

    assert names(table) == ["a", "b"]
    assert [r.name for r in table.status(Kind.CUDA, "g")] == ["g"]
    assert system.value.message == "Unable to find system shared memory region: 'g'"
    assert cuda.value.message == "Unable to find cuda shared memory region: 'a'"


def test_regions_and_their_bytes_are_counted_by_kind() -> None:
    """Each kind has its series from the start."""
    table = RegionTable(LIMIT)
    registered(table, "a", 10)
    registered(table, "b", 20)

    count, size = table.families()

    assert [(s.labels["kind"], s.value) for s in count.samples] == [("system", 2), ("cuda", 0)]
    assert [(s.labels["kind"], s.value) for s in size.samples] == [("system", 30), ("cuda", 0)]


def test_a_table_that_is_closed_opens_nothing_any_more() -> None:
    """Not even what was being opened meanwhile."""
    table = RegionTable(LIMIT)
    first = registered(table)
    late = FakeSegment()

    def opens() -> FakeSegment:
        table.close()
        return late

    with pytest.raises(Unavailable):
        table.register(Registration("b", Kind.SYSTEM, 64), opens)

    assert first.closed
    assert late.closed
    assert table.open_regions == 0


def test_threads_that_use_and_unregister_at_once_close_each_region_once() -> None:
    """A fake that is closed twice, or read when it is closed, fails its thread."""
    table = RegionTable(64)
    made: list[FakeSegment] = []
    failures: list[BaseException] = []

    def registers() -> None:
        for _ in range(200):
            made.append(registered(table))
            table.unregister(Kind.SYSTEM, "a")

    def uses() -> None:
        while registering.is_alive():
            try:
                use = table.use(Place("a", 8))
            except NotFound:
                continue
            try:
                use.read()
            except BaseException as error:
                failures.append(error)
            use.close()

    registering = threading.Thread(target=registers)
    users = [threading.Thread(target=uses) for _ in range(3)]
    for thread in (registering, *users):
        thread.start()
    for thread in (registering, *users):
        thread.join()

    assert failures == []
    assert len(made) == 200
    assert all(segment.closed for segment in made)
