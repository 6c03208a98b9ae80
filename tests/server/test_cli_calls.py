"""`penstock calls` reads what the engine's record of calls has written."""

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from penstock.cli.call_records import parse_since
from penstock.cli.call_table import render
from penstock.cli.main import main
from penstock.cli.terminal import Paint
from penstock_runtime.llm.calls import CallLog, CallRecord

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)


def _record(number: int, **fields: object) -> CallRecord:
    known: dict[str, object] = {
        "time_ns": int((NOON + timedelta(minutes=number)).timestamp()) * 10**9,
        "model": "gemma" if number % 2 else "llama",
        "id": f"call-{number}",
        "prompt_tokens": 100 + number,
        "output_tokens": 20,
        "finish_reason": "stop",
        "ttft_ms": 12.5,
        "total_ms": 100.0 * number,
        "prompt": f"question\nnumber {number}",
        "answer": f"answer {number}",
    }
    return CallRecord(**(known | fields))  # type: ignore[arg-type]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Five calls, the third of which failed; the file was turned over after the second or so."""
    path = tmp_path / "calls.jsonl"
    log = CallLog(str(path), 700, content=True)
    for number in range(1, 6):
        bad = {"status": "INVALID_ARGUMENT", "error": "too long", "finish_reason": ""}
        log.append(_record(number, **(bad if number == 3 else {})))
    assert log.close()
    return path


def _shown(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", [5, 4, 3]),
        ("--limit 2", [5, 4]),
        ("--model gemma", [5, 3]),
        ("--failed", [3]),
        ("--slowest 2", [5, 4]),
        ("--slowest 1 --model llama", [4]),
        ("--since 2026-11-28T12:04:00+00:00", [5, 4]),
        ("--grep NUMBER+4", [4]),
        ("--grep call-5", [5]),
        ("--grep too+long", [3]),
    ],
)
def test_calls_are_found_newest_first(
    options: str, expected: list[int], file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By model, time, duration, failure and any text, in this file and the one before."""
    words = [word.replace("+", " ") if "-11-" not in word else word for word in options.split()]

    code = main(["calls", str(file), "--json", *words])

    assert code == 0
    assert _shown(capsys) == [f"call-{number}" for number in expected]


def test_the_table_says_what_each_call_took(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And beside it how many there are; columns that say nothing are left out."""
    main(["calls", str(file), "--limit", "2"])

    out, err = capsys.readouterr()
    head, first, second = out.splitlines()
    assert head.split()[2:9] == ["ID", "IN", "CACHED", "OUT", "FIRST", "TOTAL", "END"]
    assert "call-5  105       0   20  12.5 ms  500 ms  stop  question number 5 → answer 5" in first
    assert "call-4" in second
    assert err == "2 of 3 calls, 1 failed\n"


def test_a_call_in_full_has_everything(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Texts with their lines, and the error of one that failed."""
    main(["calls", str(file), "--failed", "--full"])

    out = capsys.readouterr().out
    assert "status         INVALID_ARGUMENT" in out
    assert "error          too long" in out
    assert "prompt\n  question\n  number 3\n" in out


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_the_table_fits_its_page(width: int) -> None:
    """What is expendable goes first, and texts are cut."""
    records = [_record(number, prompt="word " * 50).document(True) for number in range(1, 4)]

    text = render(records, width, Paint(io.StringIO()), NOON)

    assert all(len(line) <= width for line in text.splitlines())
    assert text.splitlines()[0].startswith("TIME")
    assert "TOTAL" in text


def test_lines_that_are_no_records_are_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line that was cut short hides no other; what steers a terminal does not reach it."""
    good = json.dumps({"model": "a\x1b[31m", "status": "OK"})
    (tmp_path / "calls").write_text(f'{good}\n{{"model": "b\n[]\n\n')

    code = main(["calls", str(tmp_path / "calls")])

    out, err = capsys.readouterr()
    assert code == 0
    assert "a\\x1b[31m" in out
    assert err == "1 of 1 calls, 2 lines are no record\n"


def test_nothing_found_is_code_1(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """So that a script can ask."""
    assert main(["calls", str(file), "--grep", "nowhere"]) == 1

    assert capsys.readouterr() == ("", "no calls\n")


def test_a_time_is_so_long_ago_or_a_date() -> None:
    """A date without a zone is of this place."""
    assert parse_since("90m", lambda: NOON) == NOON - timedelta(minutes=90)
    assert parse_since("1.5h", lambda: NOON) == NOON - timedelta(minutes=90)
    assert parse_since("2026-11-28T13:00:00+01:00") == NOON
    assert parse_since("2026-11-28").tzinfo is not None
    with pytest.raises(ValueError, match="expected 15m, 2h, 3d or a date, got 'soon'"):
        parse_since("soon")
