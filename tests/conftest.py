"""One parameter for the whole suite: the transport of every server that a test starts.

pytest --transport http2
"""

import gc
import os
from collections.abc import Generator

import pytest
from hypothesis import settings
from tests.contract.plugin import install
from tests.transports import TRANSPORTS, VARIABLE

from penstock_runtime.backends.host import prepare_openmp

# As a server does before it imports torch; here the modules of tests import it. Threads that spin
# would take the cores from the other workers.
prepare_openmp()
# No test is about time, and this machine may be busy.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The parameter; without it the server's own default is tested."""
    parser.addoption("--transport", choices=TRANSPORTS, help="transport of the servers under test")


def pytest_configure(config: pytest.Config) -> None:
    """Servers in processes of their own inherit the choice; others ask `tests.transports`."""
    chosen = config.getoption("--transport")
    if chosen:
        os.environ[VARIABLE] = chosen
    install(config)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep the garbage collector from what is there before the first test, then and later.

    Every model that a test's server unloads makes collections, and each walked through some
    800,000 objects of imported libraries and of collected tests, for half a second, to find none.
    """
    gc.disable()
    try:
        collected = yield
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()
    return collected
