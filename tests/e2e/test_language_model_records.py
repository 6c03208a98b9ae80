"""What a server says and writes down of the language models that it serves."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest
import tritonclient.grpc as triton
from tests.e2e.asking import flagged, page
from tests.e2e.language_models import ask, write_language_model
from tests.e2e.running import ServerThread


def served(root: Path, *flags: str, sampling: dict[str, Any] | None = None) -> str:
    """Asks a server with these flags something; its metrics."""
    with (
        ServerThread(flagged(root, *flags)) as running,
        triton.InferenceServerClient(running.target) as client,
    ):
        client.infer("tiny", ask("def one", max_tokens=4, ignore_eos=True, **(sampling or {})))
        return page(running)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_language_model(folder)
    return folder


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_request_is_written_down_without_its_texts(root: Path, tmp_path: Path) -> None:
    """--call-log: for the eyes of its owner only."""
    path = tmp_path / "calls.jsonl"

    served(root, f"--call-log={path}")

    (record,) = records(path)
    assert record["model"] == "tiny"
    assert (record["output_tokens"], record["finish_reason"]) == (4, "length")
    assert record["status"] == "OK"
    assert record["ttft_ms"] > 0
    assert "def one" not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_texts_are_written_down_only_where_that_is_asked(root: Path, tmp_path: Path) -> None:
    """--call-log-content: what was asked, and what was answered."""
    path = tmp_path / "calls.jsonl"

    served(root, f"--call-log={path}", "--call-log-content=true")

    (record,) = records(path)
    assert record["prompt"] == "def one"
    assert record["answer"]


def test_the_record_is_turned_over_where_it_would_be_too_long(root: Path, tmp_path: Path) -> None:
    """--call-log-max-bytes: one old file is kept."""
    path = tmp_path / "calls.jsonl"
    path.write_text("{}\n" * 2000)

    served(root, f"--call-log={path}", "--call-log-max-bytes=6200")

    assert len(records(path)) == 1
    assert len(records(tmp_path / "calls.jsonl.1")) == 2000


def test_families_are_told_under_other_names_too(root: Path) -> None:
    """--metrics-compat: for boards and pickers that were made for those."""
    text = served(root, "--metrics-compat=vllm", "--metrics-compat=otel")

    for name in ("vllm:generation_tokens_total", "penstock_llm_generation_tokens_total"):
        (line,) = [line for line in text.splitlines() if line.startswith(name + "{")]
        assert line.endswith(" 4")
    assert "gen_ai_server_time_to_first_token_seconds_count{" in text
