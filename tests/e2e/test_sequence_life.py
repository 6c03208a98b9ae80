"""Sequences outlive the version that serves them, and the wish to stop the server."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as triton
from tests.e2e import sequence_models
from tests.e2e.running import Running, ServerThread, options
from tests.e2e.test_sequences import infer, wait_for
from tritonclient.utils import InferenceServerException

SUM = sequence_models.SUM
# As SUM, and one can tell that it is another.
LATER = SUM.replace('"OUTPUT": total', '"OUTPUT": total + 1000')


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A repository with one model that adds up."""
    sequence_models.write(tmp_path, "sum", sequence_models.SUM_CONFIG, SUM)
    return tmp_path


@pytest.fixture
def running(folder: Path) -> Iterator[Running]:
    """A server that loads when it is told."""
    with ServerThread(
        options([folder], model_control_mode="explicit", load_model=("sum",))
    ) as made:
        yield made


@pytest.fixture
def client(running: Running) -> Iterator[Any]:
    """A blocking client of it."""
    with triton.InferenceServerClient(running.target) as made:
        yield made


def test_a_reload_keeps_running_sequences_where_they_are(folder: Path, client: Any) -> None:
    """New ones start on the new version, the old one serves its own until their END."""
    before = [infer(client, "sum", 1, 1, "S"), infer(client, "sum", 1, 2, "S")]
    (folder / "sum" / "1" / "model.py").write_text(LATER)
    client.load_model("sum")

    after = [infer(client, "sum", 1, 3, "S"), infer(client, "sum", 1, 1)]
    ends = [infer(client, "sum", 1, n, "E") for n in (1, 2, 3)]

    assert before == [1, 1]
    assert after == [1001, 2]
    assert ends == [3, 2, 1002]
    with pytest.raises(InferenceServerException, match="must specify the START flag"):
        infer(client, "sum", 1, 1)


def test_a_version_that_is_gone_finishes_its_sequences(client: Any) -> None:
    """Also where nothing serves under the name any more."""
    infer(client, "sum", 1, 1, "S")

    client.unload_model("sum")
    going_on = infer(client, "sum", 5, 1)
    with pytest.raises(InferenceServerException):
        infer(client, "sum", 1, 2, "S")
    ending = infer(client, "sum", 1, 1, "E")

    assert (going_on, ending) == (6, 7)
    with pytest.raises(InferenceServerException):
        infer(client, "sum", 1, 1)


def test_a_server_that_stops_refuses_starts_and_lets_sequences_end(folder: Path) -> None:
    """It waits for their END before it lets nobody in any more."""
    server = ServerThread(options([folder]))
    with server as running, triton.InferenceServerClient(running.target) as client:
        infer(client, "sum", 1, 1, "S")
        stop = running.server.stop
        running.loop.call_soon_threadsafe(stop.ask, "test")
        wait_for(lambda: running.server.core.exiting)

        with pytest.raises(InferenceServerException) as refused:
            infer(client, "sum", 1, 2, "S")
        answers = [infer(client, "sum", 1, 1), infer(client, "sum", 1, 1, "E")]

    assert answers == [2, 3]
    assert refused.value.status() == "StatusCode.UNAVAILABLE"
    assert "scheduler for model has stopped accepting new inference requests" in str(refused.value)
