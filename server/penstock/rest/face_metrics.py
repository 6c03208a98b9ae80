"""The metrics, on the HTTP port as well as on their own."""

from collections.abc import Callable, Sequence

from penstock.auth.caller import permit_of
from penstock.rest.exchange import Exchange, Reply
from penstock.rest.route import Route
from penstock.rpc import Category
from penstock.workshop import Workshop
from penstock_runtime.errors import PermissionDenied
from penstock_runtime.observability.metrics import CONTENT_TYPE


class MetricsFace:
    """Answers a scrape."""

    def __init__(self, render: Callable[[], bytes], shop: Workshop) -> None:
        self._render = render
        self._shop = shop

    def routes(self) -> Sequence[Route]:
        """The path of the metrics."""
        return (Route("GET", "/metrics", self.metrics, Category.STATISTICS, ungated=True),)

    async def metrics(self, exchange: Exchange) -> Reply:
        """Every family; for callers who may know of every model."""
        permit = permit_of(exchange.call)
        if permit.models is not None:
            raise PermissionDenied(
                f"'{permit.caller}' may not see the metrics, which are of all models",
                reason="MODEL_NOT_ALLOWED",
            )
        return Reply((await self._shop.aside(self._render),), content_type=CONTENT_TYPE)
