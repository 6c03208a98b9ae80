"""What someone at a terminal sees while models are loaded."""

import io

import pytest

from penstock.cli import load_bar, progress
from penstock.cli.load_bar import LoadBar
from penstock_runtime.repository.start_report import LoadProgress


class Terminal(io.StringIO):
    """Says that it is one."""

    def isatty(self) -> bool:
        return True


def test_weights_have_a_bar_of_their_own_before_their_model_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shown = Terminal()
    monkeypatch.setattr("sys.stderr", shown)
    monkeypatch.setattr(progress, "is_terminal", lambda _: True)
    bar: LoadBar = load_bar.LoadBar()

    bar.reading("llama", 4 << 20, 4 << 20)
    bar(LoadProgress("llama", 1, 1, 0.5))

    weights, models = shown.getvalue().split("\r\x1b[K")[1:]
    assert weights.startswith("llama │")
    assert "4 of 4 MiB" in weights
    assert models.startswith("models │")
