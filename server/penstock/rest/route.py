"""A path that is served: what it is about, and who answers it. A face of the server (the protocol,
its extensions, another vendor's interface) is a list of them.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from penstock.rest.exchange import EventsReply, Exchange, Reply
from penstock.rest.refusals import Refusal, refused
from penstock.rpc import Category

Endpoint = Callable[[Exchange], Awaitable[Reply | EventsReply]]


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path; `{name}` in the path is a part that the endpoint gets by name.

    `category` decides who may call it. An `ungated` one is answered even while the server drains.
    `refusal` is how its callers are told of errors.
    """

    method: str
    path: str
    endpoint: Endpoint
    category: Category
    ungated: bool = False
    refusal: Refusal = refused

    @property
    def title(self) -> str:
        """What the log calls it."""
        return f"{self.method} {self.path}"
