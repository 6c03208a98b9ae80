"""What a model may know of one step of a sequence, and how it asks for a further one."""

from penstock_runtime.context import PendingContext
from penstock_runtime.scheduling.sequence import SequenceId, Turn


class StepContext(PendingContext):
    """One request of a sequence, as its model sees it.

    Where `ready` is false the row has no request: the context is that of another row, and whatever
    the model gives for it is dropped.
    """

    __slots__ = ("_iterative", "_turn", "ready", "rescheduled")

    def __init__(self, turn: Turn, iterative: bool, ready: bool) -> None:
        super().__init__(turn.pending, turn.pending.stream)
        self._turn = turn
        self._iterative = iterative
        self.ready = ready
        self.rescheduled = False

    @property
    def sequence_id(self) -> SequenceId:
        """The correlation id."""
        return self._turn.sequence.id

    @property
    def sequence_start(self) -> bool:
        """Whether this is the first step of the sequence."""
        return self.ready and self._turn.start

    @property
    def sequence_end(self) -> bool:
        """Whether this is its last step."""
        return self.ready and self._turn.end

    def reschedule(self) -> None:
        """Ask for a further step of this request, behind those that wait longer.

        Outputs of a step that is not the last are dropped; what a decoupled model yields goes out.
        """
        if not self._iterative:
            super().reschedule()
        self.rescheduled = self.ready
