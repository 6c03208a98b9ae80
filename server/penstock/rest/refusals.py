"""Errors as answers over HTTP: the status of the one table, and the text in `{"error": ...}`."""

from collections.abc import Callable, Mapping

from penstock.rest.documents import write_document
from penstock.rest.exchange import Reply
from penstock.rest.problems import HttpProblem
from penstock.status import HTTP_CODES, public_error, text_of
from penstock_runtime.errors import PenstockError, Status

RETRY_AFTER_S = 1
"""What a caller is told who may try again, when nothing better is known."""


Refusal = Callable[[PenstockError, str], Reply]
"""How a face tells an error; the text is the id of the request, if it has one."""


def refused(error: PenstockError, request_id: str = "") -> Reply:
    """The answer to a request that fails; `request_id` is named in errors of the engine."""
    code, headers = outcome(error)
    return Reply((error_document(error, request_id),), code, headers=headers)


def outcome(
    error: PenstockError, codes: Mapping[Status, int] = HTTP_CODES
) -> tuple[int, dict[str, str]]:
    """Status and headers of the answer to a request that fails, in a face that has these codes."""
    headers = _retry(error)
    if error.status is Status.UNAUTHENTICATED:
        headers["WWW-Authenticate"] = "Bearer"
    if not isinstance(error, HttpProblem):
        return codes[error.status], headers
    headers |= error.headers
    return error.code, headers | ({"Connection": "close"} if error.ends else {})


def error_document(error: BaseException, request_id: str = "") -> bytes:
    """What a caller is told of an error."""
    return write_document({"error": text_of(public_error(error), request_id)})


def _retry(error: PenstockError) -> dict[str, str]:
    after_ns = error.retry_after_ns
    if after_ns is None:
        again = error.status is Status.UNAVAILABLE
        return {"Retry-After": str(RETRY_AFTER_S)} if again else {}
    # Below zero: a retry is in vain.
    return {"Retry-After": str(max(1, -(-after_ns // 1_000_000_000)))} if after_ns >= 0 else {}
