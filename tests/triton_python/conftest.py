"""One server with all the Triton models, shared by the tests of a module."""

from collections.abc import Iterator
from typing import Any

import pytest
import tritonclient.grpc as triton
from tests.e2e.running import Running, ServerThread, options
from tests.triton_python.serving import MODELS


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    """A server that loads and unloads models when it is told to."""
    pytest.importorskip("torch")
    settings = options(
        [MODELS],
        model_control_mode="explicit",
        load_model=("*",),
        exit_timeout_secs=1,
        grpc_header_forward_pattern="x-.*",
    )
    with ServerThread(settings) as made:
        yield made


@pytest.fixture
def client(running: Running) -> Iterator[Any]:
    """A client of Triton's."""
    with triton.InferenceServerClient(running.target) as made:
        yield made
