"""The record of calls keeps what it is given, within its bounds, and nobody waits for it."""

import json
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from penstock_runtime.errors import InvalidArgument
from penstock_runtime.llm.calls import MOST_BYTES, CallLog, CallRecord, rfc3339

RECORD = CallRecord(
    time_ns=1_795_867_200_123_456_789,
    model="gemma",
    version="1",
    tenant="acme",
    prompt_tokens=7,
    output_tokens=3,
    finish_reason="stop",
    ttft_ms=12.34567,
    total_ms=20.0,
    parameters={"temperature": 0.5},
    prompt="what?\n",
    answer="that",
)


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _numbered(number: int) -> CallRecord:
    return CallRecord(number, "gemma", id=f"{number:06d}")


def test_a_record_is_a_line_of_json(tmp_path: Path) -> None:
    """Times are rounded to microseconds; what there was not is left out, and texts are not kept."""
    log = CallLog(str(tmp_path / "calls"), 1 << 20)
    log.append(RECORD)

    assert log.close()
    assert _read(tmp_path / "calls") == [
        {
            "time": "2026-11-28T12:00:00.123Z",
            "model": "gemma",
            "version": "1",
            "tenant": "acme",
            "prompt_tokens": 7,
            "output_tokens": 3,
            "cached_tokens": 0,
            "finish_reason": "stop",
            "status": "OK",
            "ttft_ms": 12.346,
            "total_ms": 20.0,
            "parameters": {"temperature": 0.5},
        }
    ]


def test_texts_are_kept_where_they_are_wanted(tmp_path: Path) -> None:
    """In a file that only its owner reads."""
    log = CallLog(str(tmp_path / "calls"), 1 << 20, content=True)
    log.append(RECORD)

    assert log.close()
    (kept,) = _read(tmp_path / "calls")
    assert (kept["prompt"], kept["answer"]) == ("what?\n", "that")
    assert stat.S_IMODE(os.stat(tmp_path / "calls").st_mode) == 0o600


def test_a_file_that_is_full_is_turned_over(tmp_path: Path) -> None:
    """There is one old file, and neither is ever longer than its bound."""
    log = CallLog(str(tmp_path / "calls"), 2000)
    for number in range(100):
        log.append(_numbered(number))

    assert log.close()
    new, old = tmp_path / "calls", tmp_path / "calls.1"
    kept = [each["id"] for each in _read(old) + _read(new)]
    assert kept == [f"{number:06d}" for number in range(100)][-len(kept) :]
    assert max(new.stat().st_size, old.stat().st_size) <= 2000
    assert stat.S_IMODE(new.stat().st_mode) == 0o600
    assert log.stats().written == 100


def test_several_logs_share_a_file(tmp_path: Path) -> None:
    """Lines are whole, none is lost, and whoever did not turn it over follows."""
    logs = [CallLog(str(tmp_path / "calls"), 1 << 20) for _ in range(3)]
    threads = [
        threading.Thread(target=lambda log=log: [log.append(_numbered(n)) for n in range(200)])
        for log in logs
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.rename(tmp_path / "calls", tmp_path / "moved")
    logs[0].append(_numbered(1000))

    assert all(log.close() for log in logs)
    new = [each["id"] for each in _read(tmp_path / "calls")]
    assert "001000" in new
    assert len(_read(tmp_path / "moved")) + len(new) == 601


def test_what_has_no_room_is_dropped_and_counted(tmp_path: Path) -> None:
    """Also a record that is longer than a file may be, and one that comes too late."""
    log = CallLog(str(tmp_path / "calls"), 400, most=5)
    taken = [log.append(_numbered(number)) for number in range(9)]
    log.append(_numbered(9))
    assert log.close()
    late = log.append(_numbered(10))

    assert taken == [True] * 5 + [False] * 4
    assert not late
    assert log.stats().written == 5
    assert log.stats().dropped == 6

    long = CallLog(str(tmp_path / "calls"), 400, content=True)
    long.append(CallRecord(0, "gemma", prompt="x" * 500))
    assert long.close()
    assert long.stats().dropped == 1


def test_what_waits_is_bounded_by_all_that_a_record_holds(tmp_path: Path) -> None:
    """A form that the answer must have is a text of the caller's, too; what is lost before it gets
    here is counted with the rest.
    """
    form = {"structured": "x" * (MOST_BYTES // 2)}
    log = CallLog(str(tmp_path / "calls"), 1 << 20)

    taken = [log.append(CallRecord(0, "gemma", parameters=form)) for _ in range(2)]
    log.lost(3)

    assert taken == [True, False]
    assert log.stats().dropped == 4
    assert log.close()


def test_a_disk_that_fails_reaches_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The records are counted as lost, one line tells why, and half a line is taken back."""
    log = CallLog(str(tmp_path / "calls"), 1 << 20)
    real, calls = os.write, []

    def full(fd: int, data: Any) -> int:
        calls.append(len(data))
        if len(calls) == 1:
            return real(fd, data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("penstock_runtime.llm.calls.os.write", full)
    log.append(_numbered(1))

    assert log.close()
    assert log.stats().dropped == 1
    assert (tmp_path / "calls").read_text() == ""
    assert "records of calls are lost" in caplog.text
    assert "No space left on device" in caplog.text


def test_parameters_that_json_does_not_know_become_text(tmp_path: Path) -> None:
    """What a caller sent must not cost the record."""
    log = CallLog(str(tmp_path / "calls"), 1 << 20, content=True)
    log.append(CallRecord(0, "gemma", parameters={"stop": {1}}, prompt="\ud800"))

    assert log.close()
    assert _read(tmp_path / "calls")[0]["parameters"] == {"stop": "{1}"}


def test_a_path_that_cannot_be_opened_is_an_error_at_once(tmp_path: Path) -> None:
    """The operator hears of it when the model is loaded."""
    with pytest.raises(InvalidArgument, match=r"record of calls .* cannot be opened"):
        CallLog(str(tmp_path / "no" / "calls"), 1 << 20)


def test_a_time_is_written_as_a_date() -> None:
    """In UTC, to the millisecond."""
    assert rfc3339(999_999) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(1_500_000_000) == "1970-01-01T00:00:01.500Z"
