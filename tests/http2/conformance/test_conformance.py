"""Every rule of RFC 9113 and RFC 7541 that a server can break, over a real socket."""

from collections.abc import Iterator

import pytest
from tests.http2.conformance import definitions, exchanges, generic, streams, windows
from tests.http2.conformance.case import Case
from tests.http2.loops import FACTORIES
from tests.http2.raw import RawClient
from tests.http2.service import Serving, serving

CASES = [
    case for part in (generic, streams, definitions, windows, exchanges) for case in part.cases()
]


@pytest.fixture(scope="module", params=FACTORIES)
def served(request: pytest.FixtureRequest) -> Iterator[Serving]:
    with serving("http2", loop_name=request.param, max_concurrent_streams=50) as one:
        yield one


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_server_keeps_the_rule(case: Case, served: Serving) -> None:
    """Whatever a connection did, a new one is served, and nothing is left of the old one."""
    with RawClient(served.address) as client:
        if case.started:
            client.start()
        case.act(client)
        case.check(client)

    with RawClient(served.address) as neighbour:
        assert neighbour.start().call(1, b"next").messages == [b"next"]


def test_every_rule_is_named_once() -> None:
    """A name that stands twice would hide one of the two."""
    names = [case.name for case in CASES]

    assert len(set(names)) == len(names)
