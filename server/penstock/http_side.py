"""What a server knows of its HTTP port, without importing what that is made of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from penstock.options.http import http_is_installed
from penstock_runtime.errors import FailedPrecondition
from penstock_runtime.observability.metrics import Family


class Port(Protocol):
    """A port that is opened once and closed in the end."""

    async def start(self) -> str:
        """Bind and accept; the address with its real port."""

    async def stop(self, grace_s: float) -> None:
        """Accept nothing more; what is inside may go on for `grace_s`."""


@dataclass(frozen=True, slots=True)
class HttpSide:
    """The port, and what a scrape learns of it."""

    port: Port
    families: Callable[[], Sequence[Family]]


def require_http(wanted: bool) -> None:
    """FailedPrecondition if HTTP is wanted, and its libraries are not installed."""
    if wanted and not http_is_installed():
        raise FailedPrecondition(
            "--allow-http needs the libraries of the HTTP port: pip install 'penstock[http]', or"
            " --allow-http=false"
        )
