"""Refusals that HTTP has a status of its own for, beside those of the error tree."""

from collections.abc import Mapping
from types import MappingProxyType

from penstock_runtime.errors import InvalidArgument, NotFound

NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class HttpProblem(InvalidArgument):
    """The request is wrong in the way that this status of HTTP names; `ends` the connection too."""

    def __init__(
        self, code: int, text: str, headers: Mapping[str, str] = NO_HEADERS, *, ends: bool = False
    ) -> None:
        super().__init__(text)
        self.code = code
        self.headers = headers
        self.ends = ends


def too_large(what: str, most: int) -> HttpProblem:
    """413; the rest of the body is not read, so the connection ends."""
    text = f"{what} more than {most} bytes, which --http-max-input-size allows"
    return HttpProblem(413, text, ends=True)


SLOW = 408


def too_slow(what: str) -> HttpProblem:
    """408."""
    return HttpProblem(SLOW, f"{what} did not arrive in time", ends=True)


def unknown_path() -> NotFound:
    """404 for what is no path of this server; the path itself is not repeated."""
    return NotFound("this path is not served here")
