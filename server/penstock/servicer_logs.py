"""LogSettings: what is logged, read and changed while the server runs, effective at once."""

import logging
from collections.abc import Mapping

from penstock.log_settings import LogSettings, Setting
from penstock.logs import Logs
from penstock.messages import parse
from penstock.neighbours import LOGS, Change, Neighbours, Nobody
from penstock.transport.base import Call
from penstock_protos import inference
from penstock_runtime.errors import Unsupported
from penstock_runtime.observability.access_log import peer_host

_log = logging.getLogger(__name__)

_NOT_OURS = (
    "log settings are not available: this server runs in a program that keeps its own log, "
    "configure it there"
)
Response = inference.LogSettingsResponse


class LogServicer:
    """Answers LogSettings for the logs of this process, and tells its neighbours of changes;
    without any logs it says so.
    """

    def __init__(self, logs: Logs | None, neighbours: Neighbours | None = None) -> None:
        self._logs = logs
        self._neighbours = neighbours if neighbours is not None else Nobody()

    async def log_settings(self, data: bytes, call: Call) -> bytes:
        """Change the settings that are named, all of them or none; answer those in force."""
        request = parse(inference.LogSettingsRequest, data)
        if self._logs is None:
            raise Unsupported(_NOT_OURS, reason="NOT_AVAILABLE")
        if request.settings:
            given = _given(request)
            self._change(self._logs, given, call)
            await self._neighbours.tell(Change(LOGS, given))
        return _message(self._logs.settings).SerializeToString()

    def _change(self, logs: Logs, given: Mapping[str, Setting | None], call: Call) -> None:
        settings = logs.settings.changed(given)
        # Before the change: who has the log fall silent is the last thing that it tells.
        told = ", ".join(f"{name}={value}" for name, value in given.items())
        _log.info("log settings are changed by %s: %s", peer_host(call.peer), told)
        logs.change(settings)


def _given(request: inference.LogSettingsRequest) -> dict[str, Setting | None]:
    """The settings that a request names; None where it gives no value."""
    return {name: _value(setting) for name, setting in request.settings.items()}


def _value(setting: inference.LogSettingsRequest.SettingValue) -> Setting | None:
    choice = setting.WhichOneof("parameter_choice")
    if choice is None:
        return None
    value: Setting = getattr(setting, choice)
    return value


def _message(settings: LogSettings) -> Response:
    value = Response.SettingValue
    return Response(
        settings={
            "log_file": value(string_param=settings.log_file),
            "log_info": value(bool_param=settings.log_info),
            "log_warning": value(bool_param=settings.log_warning),
            "log_error": value(bool_param=settings.log_error),
            "log_verbose_level": value(uint32_param=settings.log_verbose_level),
            "log_format": value(string_param=settings.log_format),
        }
    )
