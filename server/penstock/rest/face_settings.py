"""Logging and tracing over HTTP: what is recorded, read and changed while the server runs."""

from collections.abc import Mapping, Sequence
from typing import Any

from penstock.codec.wire import shown
from penstock.rest.control import Control, document_reply
from penstock.rest.documents import expect_text, kind_of
from penstock.rest.exchange import Exchange, Reply
from penstock.rest.route import Route
from penstock.rpc import Category
from penstock_protos import inference
from penstock_runtime.errors import InvalidArgument

LogValue = inference.LogSettingsRequest.SettingValue
TraceValue = inference.TraceSettingRequest.SettingValue

_UINT32_MAX = (1 << 32) - 1
TRACE_LEVEL = "trace_level"


class SettingsFace:
    """Answers for the settings of the log and of tracing."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def routes(self) -> Sequence[Route]:
        """The paths of the settings."""
        made = [
            Route(method, "/v2/logging", self.logging, Category.LOGGING)
            for method in ("GET", "POST")
        ]
        for path in ("/v2/trace/setting", "/v2/models/{model}/trace/setting"):
            made += [
                Route(method, path, self.tracing, Category.TRACE) for method in ("GET", "POST")
            ]
        return made

    async def logging(self, exchange: Exchange) -> Reply:
        """The settings of the log, after those that the body names are changed."""
        document = await self._control.document(exchange)
        settings = {_name(key): _log_value(key, value) for key, value in document.items()}
        request = inference.LogSettingsRequest(settings=settings)
        kind = inference.LogSettingsResponse
        answer = await self._control.ask("LogSettings", request, kind, exchange)
        return document_reply(
            {
                key: getattr(value, str(value.WhichOneof("parameter_choice")))
                for key, value in sorted(answer.settings.items())
            }
        )

    async def tracing(self, exchange: Exchange) -> Reply:
        """The settings of tracing, of the server or of a model, after the changes in the body."""
        document = await self._control.document(exchange)
        settings = {
            _name(key): TraceValue(value=_trace_values(key, value))
            for key, value in document.items()
        }
        request = inference.TraceSettingRequest(
            settings=settings, model_name=exchange.value("model")
        )
        kind = inference.TraceSettingResponse
        answer = await self._control.ask("TraceSetting", request, kind, exchange)
        values = {key: list(setting.value) for key, setting in sorted(answer.settings.items())}
        return document_reply(_trace_document(values))


def _name(key: str) -> str:
    return expect_text(key, "the name of a setting")


def _log_value(key: str, value: Any) -> LogValue:
    if isinstance(value, bool):
        return LogValue(bool_param=value)
    if isinstance(value, int) and 0 <= value <= _UINT32_MAX:
        return LogValue(uint32_param=value)
    if isinstance(value, str):
        return LogValue(string_param=expect_text(value, f"setting '{shown(key)}'"))
    raise InvalidArgument(
        f"setting '{shown(key)}' is {kind_of(value)}, expected a boolean, an integer of 0 or more"
        " in 32 bits or a string"
    )


def _trace_values(key: str, value: Any) -> list[str]:
    """The texts of a setting; none of them clears it."""
    if value is None:
        return []
    return [_trace_text(key, item) for item in (value if isinstance(value, list) else [value])]


def _trace_text(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    return expect_text(value, f"setting '{shown(key)}'")


def _trace_document(values: Mapping[str, list[str]]) -> dict[str, Any]:
    """The settings as Triton has them: the levels in a list, of the others the one value."""
    return {
        key: found if key == TRACE_LEVEL or len(found) > 1 else "".join(found)
        for key, found in values.items()
    }
