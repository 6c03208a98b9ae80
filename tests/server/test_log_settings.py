"""Log settings change together or not at all, and what is written follows them at once."""

import json
import logging
from collections.abc import Iterator, Mapping

import pytest
from tests.fakes_server import FakeCall, FakeShelf, echo_model

from penstock.config import ServerOptions
from penstock.log_settings import LOG_FILE_FIXED, LogSettings, Setting
from penstock.logs import Logs, configure
from penstock.services import Services, build_services
from penstock.transport.base import Refusal
from penstock_protos.inference import (
    LogSettingsRequest,
    LogSettingsResponse,
    ServerMetadataResponse,
)
from penstock_runtime.core import InferenceCore
from penstock_runtime.errors import InvalidArgument, Status, Unsupported
from penstock_runtime.observability.access_log import AccessEntry

ENTRY = AccessEntry(0, "ModelInfer", "OK", model="m", id="r-1")
LEVELS = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)
Value = LogSettingsRequest.SettingValue
_log = logging.getLogger("penstock.test")


class Written:
    """The log of the process, kept."""

    def __init__(self, process: int | None = None) -> None:
        self.data = b""
        self.logs: Logs = configure(write=self._write, process=process)
        self.logs.change(LogSettings())

    def _write(self, data: bytes) -> None:
        self.data += data

    def lines(self) -> list[str]:
        """All that was written; ends the log."""
        self.logs.close()
        return self.data.decode().splitlines()


@pytest.fixture
def written() -> Iterator[Written]:
    made = Written()
    yield made
    made.logs.close()


def say_everything() -> None:
    """One record of each level, which says the level."""
    for level in LEVELS:
        _log.log(level, "said %s", logging.getLevelName(level))


# -- the settings --------------------------------------------------------------------------------


def test_a_server_starts_with_what_its_flags_say() -> None:
    """Each flag is a setting."""
    options = ServerOptions(
        log_file="/l", log_info=False, log_warning=False, log_verbose=3, log_format="json"
    )

    assert LogSettings.of(ServerOptions()) == LogSettings()
    assert LogSettings.of(options) == LogSettings("/l", False, False, True, 3, "json")


@pytest.mark.parametrize("info", [True, False])
@pytest.mark.parametrize("warning", [True, False])
@pytest.mark.parametrize("error", [True, False])
@pytest.mark.parametrize("verbose", [0, 1])
def test_each_switch_is_for_its_own_level(
    written: Written, info: bool, warning: bool, error: bool, verbose: int
) -> None:
    """And what ends a process is always told."""
    settings = LogSettings("", info, warning, error, verbose)

    written.logs.change(settings)
    say_everything()

    on = (verbose > 0, info, warning, error, True)
    wanted = [logging.getLevelName(level) for level, is_on in zip(LEVELS, on, strict=True) if is_on]
    assert [line.rpartition(" ")[2] for line in written.lines()] == wanted


def test_what_is_not_written_is_not_even_made(written: Written) -> None:
    """Loggers know the lowest level, so a record below it costs a comparison."""
    written.logs.change(LogSettings(log_info=False))
    quiet = _log.isEnabledFor(logging.INFO)
    written.logs.change(LogSettings(log_verbose_level=1))

    assert not quiet
    assert _log.isEnabledFor(logging.DEBUG)


@pytest.mark.parametrize(
    ("wanted", "part"),
    [
        ({"log_colour": True}, "'log_colour': unknown, expected one of log_info, log_warning"),
        ({"log_verbose": 1}, "'log_verbose': unknown"),
        ({"x" * 10_000: True}, "unknown"),
        ({"log_info": 1}, "'log_info': expected a value of type bool, got int"),
        ({"log_warning": "true"}, "'log_warning': expected a value of type bool, got str"),
        ({"log_error": None}, "'log_error': expected a value of type bool, got no value"),
        ({"log_verbose_level": True}, "expected a value of type int, got bool"),
        ({"log_verbose_level": "1"}, "expected a value of type int, got str"),
        ({"log_format": 1}, "expected a value of type str, got int"),
        ({"log_format": "xml"}, "expected one of default, ISO8601, json, got 'xml'"),
        ({"log_format": ""}, "expected one of default, ISO8601, json, got ''"),
    ],
)
def test_a_wrong_setting_is_named_and_changes_nothing(
    wanted: Mapping[str, Setting | None], part: str
) -> None:
    """With what was expected; good ones beside it do not count, whatever their order."""
    settings = LogSettings()

    for mixed in ({"log_info": False, **wanted}, {**wanted, "log_info": False, **wanted}):
        with pytest.raises(InvalidArgument) as error:
            settings.changed(mixed)
        assert part in error.value.message
        assert len(error.value.message) < 400
        assert error.value.violations
    assert settings == LogSettings()


@pytest.mark.parametrize("value", ["/etc/passwd", "", None, True])
def test_the_log_file_is_moved_by_nobody(value: Setting | None) -> None:
    """Not even to where it is; whatever else is asked for beside it."""
    with pytest.raises(Unsupported) as error:
        LogSettings().changed({"log_nonsense": 1, "log_file": value})

    assert error.value.message == LOG_FILE_FIXED
    assert LOG_FILE_FIXED == "log file location can not be updated through network protocol"


# -- what is written -----------------------------------------------------------------------------


@pytest.mark.parametrize("process", [None, 2])
def test_each_line_is_whole_in_the_form_of_its_time(process: int | None) -> None:
    """What waited when the form changed is written as it was meant, in order, and marked once."""
    written = Written(process)
    forms = ("default", "json", "ISO8601", "json")
    for number, form in enumerate(forms):
        written.logs.change(LogSettings(log_format=form))
        _log.info("line %d", number)
        written.logs.access.record(ENTRY)

    lines = written.lines()

    assert len(lines) == 2 * len(forms)
    for number, form in enumerate(forms):
        event, access = lines[2 * number : 2 * number + 2]
        if form == "json":
            assert json.loads(event)["message"] == f"line {number}"
            assert json.loads(access)["event"] == "access"
            assert json.loads(event).get("process") == process
        else:
            assert event.endswith(f" INFO penstock.test: line {number}")
            assert " INFO access ModelInfer OK " in access
            assert event.count("[2]") == access.count("[2]") == (process is not None)


def test_the_access_log_has_a_switch_of_its_own(written: Written) -> None:
    """Who asked for it gets it, whatever records are written beside it."""
    written.logs.change(LogSettings(log_info=False, log_warning=False, log_error=False))

    written.logs.access.record(ENTRY)

    assert len(written.lines()) == 1


# -- the RPC -------------------------------------------------------------------------------------


def services_with(logs: Logs | None) -> Services:
    return build_services(InferenceCore(FakeShelf(echo_model())), ServerOptions(), None, None, logs)


async def ask(services: Services, name: str, data: bytes = b"") -> bytes:
    path = f"/inference.GRPCInferenceService/{name}"
    method = next(method for method in services.methods if method.path == path)
    assert method.unary is not None
    return await method.unary(data, FakeCall())


@pytest.mark.asyncio
async def test_an_empty_request_reads_and_tells_nobody(written: Written) -> None:
    """Every setting under its name and in its type."""
    services = services_with(written.logs)

    reply = LogSettingsResponse.FromString(await ask(services, "LogSettings"))

    assert {
        name: value.WhichOneof("parameter_choice") for name, value in reply.settings.items()
    } == {
        "log_file": "string_param",
        "log_info": "bool_param",
        "log_warning": "bool_param",
        "log_error": "bool_param",
        "log_verbose_level": "uint32_param",
        "log_format": "string_param",
    }
    assert reply.settings["log_info"].bool_param
    assert reply.settings["log_format"].string_param == "default"
    assert written.lines() == []
    services.close()


@pytest.mark.asyncio
async def test_a_change_is_in_force_with_the_answer_and_told_before(written: Written) -> None:
    """Who has the log fall silent is the last thing that it tells."""
    services = services_with(written.logs)
    request = LogSettingsRequest(
        settings={"log_info": Value(bool_param=False), "log_verbose_level": Value(uint32_param=0)}
    )

    answer = await ask(services, "LogSettings", request.SerializeToString())
    say_everything()

    reply = LogSettingsResponse.FromString(answer)
    assert not reply.settings["log_info"].bool_param
    first, *rest = written.lines()
    assert "log settings are changed by 127.0.0.1: " in first
    assert "log_info=False" in first
    assert [line.rpartition(" ")[2] for line in rest] == ["WARNING", "ERROR", "CRITICAL"]
    services.close()


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("log_file", Value(string_param="/tmp/x"), Status.UNIMPLEMENTED),
        ("log_error", Value(), Status.INVALID_ARGUMENT),
        ("log_error", Value(string_param="no"), Status.INVALID_ARGUMENT),
        ("log_nonsense", Value(bool_param=True), Status.INVALID_ARGUMENT),
    ],
)
async def test_a_refused_change_leaves_all_as_it_was(
    written: Written, name: str, value: Value, status: Status
) -> None:
    """Nothing is changed, and nothing told as if it were."""
    services = services_with(written.logs)
    request = LogSettingsRequest(settings={"log_info": Value(bool_param=False), name: value})

    with pytest.raises(Refusal) as refusal:
        await ask(services, "LogSettings", request.SerializeToString())

    assert refusal.value.answer.status is status
    assert written.logs.settings == LogSettings()
    assert written.lines() == []
    services.close()


@pytest.mark.asyncio
async def test_a_server_without_logs_of_its_own_says_so_and_does_not_list_them() -> None:
    """In a program that keeps its own log, callers do not see to it."""
    services = services_with(None)

    with pytest.raises(Refusal) as refusal:
        await ask(services, "LogSettings")

    assert refusal.value.answer.status is Status.UNIMPLEMENTED
    reply = ServerMetadataResponse.FromString(await ask(services, "ServerMetadata"))
    assert "logging" not in reply.extensions
    services.close()


@pytest.mark.asyncio
async def test_a_server_with_logs_lists_them(written: Written) -> None:
    """`logging` is among the extensions, as it is in Triton's."""
    services = services_with(written.logs)

    reply = ServerMetadataResponse.FromString(await ask(services, "ServerMetadata"))

    assert "logging" in reply.extensions
    services.close()
