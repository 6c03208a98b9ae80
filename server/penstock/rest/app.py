"""The application of the HTTP port: the routes of all its faces, each behind its guard."""

from collections.abc import Iterable, Sequence
from typing import Any

from starlette.routing import Route as PathRoute
from starlette.routing import Router

from penstock.rest.guard import Guarded, GuardTools, NotFoundApp
from penstock.rest.route import Route


def build_app(tools: GuardTools, routes: Sequence[Route]) -> Any:
    """An application of ASGI that serves these routes and refuses all else.

    Paths are taken as they are: one with a slash more, or two of them, is another path.
    """
    paths = [PathRoute(path, endpoint=Guarded(tools, own)) for path, own in by_path(routes)]
    return Router(paths, redirect_slashes=False, default=NotFoundApp(tools))


def by_path(routes: Iterable[Route]) -> Iterable[tuple[str, dict[str, Route]]]:
    """The routes of each path by their methods; fixed paths come before those with parts that vary,
    which would take them for such a part.
    """
    found: dict[str, dict[str, Route]] = {}
    for route in routes:
        found.setdefault(route.path, {})[route.method] = route
    return sorted(found.items(), key=lambda item: "{" in item[0])
