"""The responses of a call of a decoupled model, as they come."""

from collections.abc import AsyncIterator, Iterator

from penstock_runtime.backends.triton_python.calls import Call, failed
from penstock_runtime.backends.triton_python.orphans import ORPHANS
from penstock_runtime.backends.triton_python.response import InferenceResponse
from penstock_runtime.errors import PenstockError


class ResponseIterator:
    """Iterates with `for` and with `async for`; an error comes as the last response.

    Whoever loses interest says so with `cancel`, or forgets the iterator.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        # Not a method: it would hold the iterator, and nothing be noticed of its being forgotten.
        self._responses = _plain(call)

    def __iter__(self) -> Iterator[InferenceResponse]:
        return self

    def __next__(self) -> InferenceResponse:
        return next(self._responses)

    async def __aiter__(self) -> AsyncIterator[InferenceResponse]:
        try:
            if self._call.error is not None:
                raise self._call.error
            async for response in self._call.responses_async():
                if not response.empty:
                    yield self._call.visible(response)
        except PenstockError as error:
            yield failed(error)

    def cancel(self) -> None:
        """No further response is wanted: the called model is told, and the iteration ends with an
        error that says so.
        """
        self._call.close()

    def __del__(self) -> None:
        call = getattr(self, "_call", None)
        if call is not None:
            ORPHANS.put(call.close)

    def __repr__(self) -> str:
        return f"<ResponseIterator of {self._call!r}>"


def _plain(call: Call) -> Iterator[InferenceResponse]:
    try:
        if call.error is not None:
            raise call.error
        for response in call.responses():
            if not response.empty:
                yield call.visible(response)
    except PenstockError as error:
        yield failed(error)
