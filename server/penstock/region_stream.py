"""The stream of a request that uses shared memory: between whoever answers and the stream that the
caller waits at, it writes outputs into their regions and lets go of these with the last answer.

Written by the thread that answers, before it is told that there is an answer. Each response of a
decoupled request overwrites the one before.
"""

import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from penstock_runtime.datatype import DataType
from penstock_runtime.errors import Internal, PenstockError
from penstock_runtime.memory.places import PlacedResponse
from penstock_runtime.memory.shared import RegionUse
from penstock_runtime.request import InferResponse, Timing
from penstock_runtime.stream import OneOutput, ResponseStream
from penstock_runtime.tensor import Tensor, raw_bytes


class RegionStream(ResponseStream):
    """Answers a request in place of its own stream, the `target`.

    `uses` are the places of outputs by name; `give_back` is called once, with the last answer.
    """

    def __init__(
        self,
        target: ResponseStream,
        uses: Mapping[str, RegionUse],
        give_back: Callable[[], None],
    ) -> None:
        super().__init__(target.inbox)
        self.wants_timing = target.wants_timing
        self._target = target
        self._uses = dict(uses)
        self.placed = bool(uses)
        self._give_back = give_back
        # Nobody lets go of a region while another writes into it.
        self._writing = threading.Lock()
        self._settled = False

    # -- producer side: any thread ---------------------------------------------------------------

    def put(self, response: InferResponse) -> bool:
        """Write the outputs that are wanted in regions, and pass on what is left to say."""
        try:
            written = self._write(response)
        except PenstockError as error:
            self.fail(error)
            return False
        return self._pass_on(written)

    def ready(self, response: InferResponse) -> Callable[[], object]:
        """What gives this response, whose outputs are in their regions by now; raises why they are
        not.
        """
        return partial(self._pass_on, self._write(response))

    def _pass_on(self, response: InferResponse) -> bool:
        if response.final:
            self.settle()
        return self._target.put(response)

    def put_only(self, kind: OneOutput, identity: str, array: Any, timing: Timing | None) -> bool:
        """As `put`; the caller's stream may have a shorter way where nothing is to be written."""
        if self._uses:
            return super().put_only(kind, identity, array, timing)
        self.settle()
        return self._target.put_only(kind, identity, array, timing)

    def _write(self, response: InferResponse) -> InferResponse:
        """The response with its outputs in their regions, all or, but for a fault of the memory,
        none.
        """
        if not self._uses:
            return response
        with self._writing:
            # Nobody reads it, or the request has ended with an error of ours.
            if self._settled or self.cancelled:
                return response
            raw = {t.name: self._form(t) for t in response.outputs if t.name in self._uses}
            for name, data in raw.items():
                self._uses[name].write(data)
        if not raw:
            return response
        outputs = tuple(
            self._told(tensor, len(raw[tensor.name])) if tensor.name in raw else tensor
            for tensor in response.outputs
        )
        return PlacedResponse(*response._replace(outputs=outputs))

    def _form(self, tensor: Tensor) -> bytes | memoryview:
        """The bytes of an output, which fit into its place. Internal when they do not."""
        data = raw_bytes(tensor)
        found = memoryview(data).nbytes
        if tensor.datatype is not DataType.BYTES:
            expected = tensor.elements * tensor.datatype.size
            if found != expected:
                raise Internal(f"{tensor!r} holds {found} bytes, expected {expected}")
        most = self._uses[tensor.name].place.byte_size
        if found > most:
            raise Internal(
                f"shared memory size specified with the request for output '{tensor.name}' "
                f"({most} bytes) should be at least {found} bytes"
            )
        return data

    def _told(self, tensor: Tensor, size: int) -> Tensor:
        place = self._uses[tensor.name].place
        return tensor._replace(array=place._replace(byte_size=size))

    def fail(self, error: PenstockError) -> bool:
        """Pass the error on."""
        self.settle()
        return self._target.fail(error)

    def close(self) -> bool:
        """Pass the end on."""
        self.settle()
        return self._target.close()

    def settle(self) -> None:
        """Let go of the regions: the last answer is there, or the request was not accepted."""
        with self._writing:
            if self._settled:
                return
            self._settled = True
        self._on_cancel = None
        for use in self._uses.values():
            use.close()
        self._give_back()

    @property
    def ended(self) -> bool:
        """Whether the caller's stream has its last answer."""
        return self._target.ended

    def wait_for_room(self, timeout_s: float) -> bool:
        """As the caller's stream does."""
        return self._target.wait_for_room(timeout_s)

    def post(self) -> None:
        """Wake whoever waits at the caller's stream."""
        self._target.post()

    # -- between them ----------------------------------------------------------------------------

    def soon(self, callback: Callable[[], None]) -> None:
        """As the caller's stream does."""
        self._target.soon(callback)

    def follow(self) -> None:
        """From now on, who gives up the caller's stream gives up this one."""
        self._target.on_cancel(self.cancel)

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call this if the caller gives up, unless the request has its last answer."""
        # Else what waited, with its inputs, would be kept for as long as the stream of its answer.
        if not self._settled:
            super().on_cancel(callback)

    def cancel(self) -> None:
        """The caller gave up: whoever answers is told, and answers for the last time."""
        if self._give_up() and self._on_cancel is not None:
            self._on_cancel()

    def __repr__(self) -> str:
        state = "settled" if self._settled else "open"
        return f"<RegionStream {state}, {len(self._uses)} outputs in regions>"
