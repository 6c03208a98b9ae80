"""Which sequences are past their deadline. Pure: whoever asks says what time it is."""

from heapq import heapify, heappop, heappush

from penstock_runtime.llm.sequence import Phase, Sequence

_STALE_SLACK = 64


class Deadlines:
    """The deadlines of sequences that have not ended."""

    __slots__ = ("_heap", "_live", "_number")

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Sequence]] = []
        self._number = 0
        self._live = 0

    def watch(self, sequence: Sequence) -> None:
        """Remember when this sequence must have ended, if it must."""
        if sequence.deadline_ns is None:
            return
        self._number += 1
        self._live += 1
        heappush(self._heap, (sequence.deadline_ns, self._number, sequence))

    def forget(self, sequence: Sequence) -> None:
        """A sequence is ended (its phase says so); it stays until it is in front or too many do."""
        if sequence.deadline_ns is None:
            return
        self._live -= 1
        if len(self._heap) > 2 * self._live + _STALE_SLACK:
            self._heap = [entry for entry in self._heap if entry[2].phase is not Phase.FINISHED]
            heapify(self._heap)

    def next(self) -> int | None:
        """The first deadline; None where there is none."""
        heap = self._heap
        while heap and heap[0][2].phase is Phase.FINISHED:
            heappop(heap)
        return heap[0][0] if heap else None

    def passed(self, now: int) -> list[Sequence]:
        """Those whose deadline is over, each told once, the first first."""
        late: list[Sequence] = []
        while self._heap and self._heap[0][0] <= now:
            sequence = heappop(self._heap)[2]
            if sequence.phase is not Phase.FINISHED:
                late.append(sequence)
        return late
