"""Streams with a short way for responses that differ from the one before in their data only."""

from collections.abc import Callable
from typing import Any

from penstock_runtime.request import InferResponse
from penstock_runtime.stream import Inbox, OneOutput, ResponseStream

Lane = Callable[[Any], bool]
"""Takes the outputs of one more response as the model gave them, by name or as the array that is
all of them, or refuses them: then nothing has happened, and they have to go the careful way.
"""


class LaneStream(ResponseStream):
    """The answers to one request whose producer need not make an InferResponse of each."""

    # Looked at for every response: as slots they are found at once.
    __slots__ = ("cancelled", "posted")

    def __init__(self, inbox: Inbox | None = None) -> None:
        super().__init__(inbox)
        self.cancelled = False
        self.posted = False

    def lane(self, like: InferResponse) -> Lane | None:
        """A way for responses without parameters that are not the last, have the outputs of this
        one, which has just been put, and are the same in everything but their data.

        None where there is none. To be used by the thread that puts, until it puts something else.
        """
        raise NotImplementedError

    def open_lane(self, kind: OneOutput, shape: tuple[int, ...]) -> Lane | None:
        """As `lane`, before there is a response: its only output, of this kind, will have this
        shape. The request asks for no outputs in particular.
        """
        raise NotImplementedError

    def give_way(self, timeout_s: float) -> None:
        """Let the consumer take what waits for it, if it was told and had no chance to look yet."""
        raise NotImplementedError
