"""The clients that people copy: examples/clients."""

import pytest
from examples.clients import stream_penstock, stream_tritonclient
from tests.e2e.running import Running


def test_tritons_client_streams_several_texts_at_once(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each under its own prompt, and all over one stream."""
    stream_tritonclient.main(running.target, "tiny", "import os", "class Name")

    out = capsys.readouterr().out
    assert out.startswith("--- import os")
    assert "--- class Name" in out
    assert len(out) > 60


def test_our_own_client_prints_an_answer_as_it_comes(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    """The figures go beside it."""
    stream_penstock.main(running.target, "tiny", "what does os.path.join do?")

    out, figures = capsys.readouterr()
    assert out.strip() == "Join two or more pathname components, inserting '/' as needed."
    assert "tokens, the first after" in figures
