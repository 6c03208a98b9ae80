"""Errors become statuses once, and say what to fix and nothing else."""

import logging

import grpc
import pytest

from penstock.status import CODES, MAX_TEXT, public_error, text_of, translate
from penstock_protos import rpc_status
from penstock_runtime import errors
from penstock_runtime.errors import InvalidArgument, PenstockError, Status, Unavailable, Violation


def details(trailing: tuple[tuple[str, str | bytes], ...]) -> rpc_status.Status:
    """The rich status among trailing metadata."""
    value = dict(trailing)["grpc-status-details-bin"]
    assert isinstance(value, bytes)
    return rpc_status.Status.FromString(value)


def test_every_status_has_the_number_that_grpc_gives_it() -> None:
    """The table is complete, and equal to grpc's own."""
    expected = {status: grpc.StatusCode[status.value].value[0] for status in Status}

    assert dict(CODES) == expected


@pytest.mark.parametrize(
    "kind",
    [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and kind is not Exception and issubclass(kind, PenstockError)
    ],
)
def test_every_error_keeps_its_status_and_text(kind: type[PenstockError]) -> None:
    """What is raised is what the caller sees."""
    answer = translate(kind("the thing, 3, expected 4"))

    assert (answer.status, answer.text) == (kind.status, "the thing, 3, expected 4")


def test_only_errors_of_the_engine_name_the_request() -> None:
    """The prefix is there exactly when the engine raised the error."""
    engine, layer = InvalidArgument("bad", scheduled=True), InvalidArgument("bad")

    assert text_of(engine, "7") == "[request id: 7] bad"
    assert text_of(engine) == "[request id: <id_unknown>] bad"
    assert text_of(layer, "7") == "bad"


def test_a_plain_error_sends_no_metadata() -> None:
    """Nothing is added that says nothing."""
    assert translate(InvalidArgument("bad")).trailing == ()


def test_a_retry_hint_is_pushback_and_retry_info() -> None:
    """Both kinds of client learn when to come again; milliseconds are rounded up."""
    answer = translate(Unavailable("full", retry_after_ns=1_500_000_001))

    assert dict(answer.trailing)["grpc-retry-pushback-ms"] == "1501"
    retry = rpc_status.RetryInfo.FromString(details(answer.trailing).details[0].value)
    assert (retry.retry_delay.seconds, retry.retry_delay.nanos) == (1, 500_000_001)


def test_what_is_wrong_with_a_field_has_a_reason_in_any_case() -> None:
    """A client that branches on reasons finds one beside every violation."""
    error = InvalidArgument("bad shape", violations=(Violation("inputs[0]", "bad shape"),))

    reason = rpc_status.ErrorInfo.FromString(details(translate(error).trailing).details[1].value)

    assert (reason.reason, reason.domain) == ("WRONG_REQUEST", "penstock")


def test_a_retry_that_would_be_in_vain_is_forbidden() -> None:
    """In gRPC's word for it; a delay would be an invitation."""
    answer = translate(Unavailable("restricted", reason="R", retry_after_ns=-1))

    assert dict(answer.trailing)["grpc-retry-pushback-ms"] == "-1"
    urls = [detail.type_url for detail in details(answer.trailing).details]
    assert urls == ["type.googleapis.com/google.rpc.ErrorInfo"]


def test_details_name_the_field_and_the_reason() -> None:
    """Violations become BadRequest, the reason an ErrorInfo."""
    error = InvalidArgument(
        "bad shape", reason="SHAPE", violations=(Violation("inputs[0].shape", "expected [2]"),)
    )

    status = details(translate(error).trailing)

    urls = [detail.type_url.rpartition(".")[2] for detail in status.details]
    assert (status.code, status.message, urls) == (3, "bad shape", ["BadRequest", "ErrorInfo"])
    violation = rpc_status.BadRequest.FromString(status.details[0].value).field_violations[0]
    assert (violation.field, violation.description) == ("inputs[0].shape", "expected [2]")
    info = rpc_status.ErrorInfo.FromString(status.details[1].value)
    assert (info.reason, info.domain) == ("SHAPE", "penstock")


def test_a_defect_is_told_by_number_and_logged_in_full(caplog: pytest.LogCaptureFixture) -> None:
    """The caller never sees what an unexpected exception says; the log does."""
    with caplog.at_level(logging.ERROR):
        answer = translate(ValueError("secret /path"))

    assert answer.status is Status.INTERNAL
    assert "secret" not in answer.text
    log_id = answer.text.removeprefix("internal error (log id ").removesuffix(")")
    (record,) = caplog.records
    assert log_id in record.getMessage()
    assert record.exc_info is not None


def test_a_public_error_is_passed_on_as_it_is() -> None:
    """Only defects are hidden."""
    error = InvalidArgument("bad")

    assert public_error(error) is error


def test_a_text_never_outgrows_a_header() -> None:
    """However long an error is, its text fits into a client's limits."""
    assert len(translate(InvalidArgument("x" * 100_000)).text) == MAX_TEXT
