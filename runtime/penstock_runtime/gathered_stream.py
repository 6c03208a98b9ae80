"""The responses of a model that gives any number of them, made into the one that its caller takes:
the first, the last, or all of them one after the other.

Stands before the stream of such a request. What it keeps it copies: a model may write its next
response where the last one was.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from penstock_runtime.errors import Internal, PenstockError, ResourceExhausted
from penstock_runtime.request import InferResponse
from penstock_runtime.stream import Inbox, ResponseStream
from penstock_runtime.tensor import Tensor

FIRST, LAST, CONCAT = "first", "last", "concat"
WAYS = (FIRST, LAST, CONCAT)
MOST_BYTES = 256 << 20
"""What the responses of one request may hold together until they are answered with."""


class GatheredStream(ResponseStream):
    """Answers once, in one of `WAYS`. Who takes the first response gives up the others, and the
    model is told as if the caller had gone.
    """

    def __init__(self, target: ResponseStream, way: str, most_bytes: int = MOST_BYTES) -> None:
        # The base is not initialised: everything else is the target's.
        self.inbox: Inbox = target.inbox
        self.wants_timing = target.wants_timing
        self._target = target
        self._way = way
        self._most_bytes = most_bytes
        self._lock = threading.Lock()
        self._kept: list[InferResponse] = []
        self._bytes = 0
        self._over = False
        self._given_up = False
        self._on_give_up: Callable[[], None] | None = None

    # -- producer side: any thread ---------------------------------------------------------------

    def put(self, response: InferResponse) -> bool:
        """Keep a response, or answer with what was kept if it is the last that is needed."""
        try:
            kept = None if response.empty else _copy(response)
        except Exception as error:
            return self.fail(_as_error(error)) and False
        with self._lock:
            if self._over:
                return False
            if kept is not None:
                self._keep(kept)
            full = self._bytes > self._most_bytes
            self._over = response.final or full or (self._way == FIRST and kept is not None)
            over = self._over
        if full:
            self._target.fail(_too_much(self._bytes, self._most_bytes))
        elif over:
            self._answer(response)
        if over and not response.final:
            self._give_up_rest()
        return not full

    def ready(self, response: InferResponse) -> Callable[[], object]:
        """What answers with all that was kept, and this; raises what keeps it from that."""
        with self._lock:
            if self._over:
                return bool
            if not response.empty:
                self._keep(_copy(response))
            if self._bytes > self._most_bytes:
                raise _too_much(self._bytes, self._most_bytes)
            answer = joined(self._kept)
        give = self._target.ready(answer._replace(final=True, timing=response.timing))

        def give_once() -> object:
            with self._lock:
                over, self._over = self._over, True
            return False if over else give()

        return give_once

    def _keep(self, response: InferResponse) -> None:
        if self._way == LAST:
            self._kept.clear()
            self._bytes = 0
        self._kept.append(response)
        self._bytes += sum(tensor.array.nbytes for tensor in response.outputs)

    def _answer(self, last: InferResponse | None) -> None:
        try:
            answer = joined(self._kept)
        except PenstockError as error:
            self._target.fail(error)
            return
        timing = last.timing if last is not None else answer.timing
        self._target.put(answer._replace(final=True, timing=timing))

    def fail(self, error: PenstockError) -> bool:
        """End with an error, whatever was there before."""
        with self._lock:
            if self._over:
                return False
            self._over = True
        return self._target.fail(error)

    def close(self) -> bool:
        """Answer with what was kept."""
        with self._lock:
            if self._over:
                return False
            self._over = True
        self._answer(None)
        return True

    def wait_for_room(self, timeout_s: float) -> bool:
        """There is always room: what is kept is bounded by its bytes."""
        del timeout_s
        return True

    def post(self) -> None:
        """Wake the consumer."""
        self._target.post()

    # -- both sides ------------------------------------------------------------------------------

    @property
    def cancelled(self) -> bool:  # type: ignore[override] # read-only
        """Whether nobody needs what the model would give."""
        return self._given_up or self._target.cancelled

    @property
    def ended(self) -> bool:
        """Whether the answer has been put."""
        return self._over

    def soon(self, callback: Callable[[], None]) -> None:
        """As the target does."""
        self._target.soon(callback)

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call this if nobody needs what the model would give."""
        self._on_give_up = callback
        self._target.on_cancel(callback)
        if self._given_up:
            callback()

    def cancel(self) -> None:
        """The consumer gives up."""
        self._target.cancel()

    def _give_up_rest(self) -> None:
        # In this order, and the other way round in `on_cancel`: one of the two sees the other.
        self._given_up = True
        if self._on_give_up is not None:
            self._on_give_up()

    def __repr__(self) -> str:
        return f"<GatheredStream {self._way}, {len(self._kept)} kept, of {self._target!r}>"


def joined(responses: Sequence[InferResponse]) -> InferResponse:
    """One response with the outputs of all these, one after the other along their first dimension,
    and with all their parameters. Internal if there is none, or they do not fit together.
    """
    if not responses:
        raise Internal("expected a single response, got 0", scheduled=True)
    last = responses[-1]
    if len(responses) == 1:
        return last
    names = [tuple(tensor.name for tensor in response.outputs) for response in responses]
    odd = next((found for found in names if set(found) != set(names[0])), None)
    if odd is not None:
        raise _unlike(f"one has outputs {list(names[0])}, another {list(odd)}")
    outputs = tuple(_joined(name, [r.output(name) for r in responses]) for name in names[0])
    parameters = {key: value for r in responses for key, value in r.parameters.items()}
    return last._replace(outputs=outputs, parameters=parameters)


def _joined(name: str, found: Sequence[Tensor | None]) -> Tensor:
    tensors = [tensor for tensor in found if tensor is not None]
    first = tensors[0]
    for tensor in tensors:
        if (tensor.datatype, tensor.shape[1:]) != (first.datatype, first.shape[1:]):
            raise _unlike(f"output '{name}' is {_told(first)} in one, {_told(tensor)} in another")
        if not tensor.shape:
            raise _unlike(f"output '{name}' has no dimension to put it after another along")
    array = np.concatenate([tensor.array for tensor in tensors])
    return Tensor(name, first.datatype, array.shape, array)


def _told(tensor: Tensor) -> str:
    return f"{tensor.datatype.value}[{','.join(map(str, tensor.shape))}]"


def _copy(response: InferResponse) -> InferResponse:
    return response._replace(outputs=tuple(map(_copied, response.outputs)))


def _copied(tensor: Tensor) -> Tensor:
    array: Any = np.array(tensor.numpy())
    return tensor._replace(array=array)


def _unlike(how: str) -> Internal:
    return Internal(f"the responses cannot be put one after the other: {how}", scheduled=True)


def _too_much(size: int, most: int) -> ResourceExhausted:
    return ResourceExhausted(
        f"the responses of the request hold {size} bytes together, expected at most {most}",
        reason="RESPONSES_TOO_LARGE",
        scheduled=True,
    )


def _as_error(error: Exception) -> PenstockError:
    if isinstance(error, PenstockError):
        return error
    return Internal("a response could not be kept", reason="MODEL_FAILED", scheduled=True)
