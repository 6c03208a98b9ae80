"""What a handler is told of its model and of the requests that it executes, and how it answers
beside its results. Names and arguments are those of ts.context.
"""

import logging
from collections.abc import Mapping
from typing import Any

_log = logging.getLogger("penstock.model")


class RequestProcessor:
    """One request of a batch: its headers, and the status and headers of its response."""

    def __init__(self, request_header: Mapping[str, str]) -> None:
        self._headers = dict(request_header)
        self._status = 200
        self._phrase = ""
        self._response_headers: dict[str, str] = {}

    def get_request_property(self, key: str) -> str | None:
        """A header of the request."""
        return self._headers.get(key)

    def get_request_properties(self) -> dict[str, str]:
        """All headers of the request."""
        return self._headers

    def report_status(self, code: int, reason_phrase: str | None = None) -> None:
        """Set the status of the response."""
        self._status, self._phrase = code, reason_phrase or ""

    def get_response_status_code(self) -> int:
        """The status of the response."""
        return self._status

    def get_response_status_phrase(self) -> str:
        """What was said of the status."""
        return self._phrase

    def add_response_property(self, key: str, value: str) -> None:
        """Set a header of the response."""
        self._response_headers[key] = value

    def get_response_headers(self) -> dict[str, str]:
        """All headers of the response."""
        return self._response_headers

    def get_response_header(self, key: str) -> str | None:
        """A header of the response."""
        return self._response_headers.get(key)


class Context:
    """One model, and the batch that it executes at the moment."""

    def __init__(
        self,
        model_name: str,
        model_dir: str,
        manifest: Mapping[str, Any],
        batch_size: int,
        gpu: int | None,
        mms_version: str,
        limit_max_image_pixels: bool = True,
        metrics: Any = None,
        model_yaml_config: Mapping[str, Any] | None = None,
    ) -> None:
        self.model_name = model_name
        self.manifest = manifest
        self.metrics = metrics
        self.model_yaml_config = dict(model_yaml_config or {})
        self.request_ids: dict[int, str] | None = None
        self.request_processor: Any = None
        self.stopping_criteria: Any = None
        self.system_properties: dict[str, Any] = {
            "model_dir": model_dir,
            "gpu_id": gpu,
            "batch_size": batch_size,
            "server_name": "penstock",
            "server_version": mms_version,
            "limit_max_image_pixels": limit_max_image_pixels,
        }

    def get_request_id(self, idx: int = 0) -> str | None:
        """The id of a request of the batch."""
        return None if self.request_ids is None else self.request_ids.get(idx)

    def get_request_header(self, idx: int, key: str) -> str | None:
        """A header of a request of the batch."""
        return self._processor(idx).get_request_property(key)

    def get_all_request_header(self, idx: int) -> dict[str, str]:
        """All headers of a request of the batch."""
        return self._processor(idx).get_request_properties()

    def set_response_header(self, idx: int, key: str, value: str) -> None:
        """Set a header of a response."""
        self._processor(idx).add_response_property(key, value)

    def get_response_headers(self, idx: int) -> dict[str, str]:
        """All headers of a response."""
        return self._processor(idx).get_response_headers()

    def set_response_content_type(self, idx: int, value: str) -> None:
        """Say what a response is."""
        self.set_response_header(idx, "content-type", value)

    def get_response_content_type(self, idx: int) -> str | None:
        """What a response was said to be."""
        return self.get_response_headers(idx).get("content-type")

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        """Set the status of one response."""
        self._processor(idx).report_status(code, reason_phrase=phrase)

    def set_all_response_status(self, code: int = 200, phrase: str = "") -> None:
        """Set the status of every response."""
        for processor in self.request_processor or ():
            processor.report_status(code, reason_phrase=phrase)

    def get_response_status(self, idx: int) -> tuple[int, str]:
        """The status of a response, and what was said of it."""
        processor = self._processor(idx)
        return processor.get_response_status_code(), processor.get_response_status_phrase()

    def _processor(self, idx: int) -> RequestProcessor:
        found: RequestProcessor = self.request_processor[idx]
        return found


class Metrics:
    """Takes the metrics of a handler and keeps none: penstock counts and times models itself."""

    def __init__(self) -> None:
        self.request_ids: Any = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("add_"):
            return self._ignore
        raise AttributeError(name)

    def _ignore(self, *values: Any, **named: Any) -> "Metrics":
        _log.debug("a metric of a handler is not kept: %s %s", values, named)
        return self

    def add_or_update(self, *_values: Any, **_named: Any) -> None:
        """Of the object that `add_metric` gives."""
