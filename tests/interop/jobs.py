"""What a client is asked to do and what it reports, in Python and as the JSON that programs in
other languages read and write (clients/interop.proto says the same for them).
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from google.protobuf import json_format
from tests.interop.table import Met

from penstock_protos.inference import ModelInferRequest, ModelInferResponse


@dataclass(frozen=True, slots=True)
class Place:
    """A server: `host:port`, and the file of the authority that signed it ("" for plaintext)."""

    target: str
    authority: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """One thing to do.

    `call` is infer (every request is a unary call, all at once on one connection), stream (all
    requests on one ModelStreamInfer), health or watch (of `service`), or unknown (a method that
    nobody serves). `timeout_ms` 0 is none; `cancel_after` cancels after so many responses;
    `ping_pong` sends a request only when the one before was answered; `retries` asks for so many
    attempts after the first, a hundred seconds apart unless the server says otherwise. Values of
    metadata whose names end in -bin are base64.
    """

    call: str = "infer"
    requests: tuple[ModelInferRequest, ...] = ()
    service: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    timeout_ms: int = 0
    compression: str = ""
    cancel_after: int = 0
    ping_pong: bool = False
    retries: int = 0

    def as_json(self, place: Place) -> str:
        """The job, and where, for a program."""
        return json.dumps(
            {
                "target": place.target,
                "authority": place.authority,
                "call": self.call,
                "requests": [_as_json(r) for r in self.requests],
                "service": self.service,
                "metadata": dict(self.metadata),
                "timeoutMs": self.timeout_ms,
                "compression": self.compression,
                "cancelAfter": self.cancel_after,
                "pingPong": self.ping_pong,
                "retries": self.retries,
            }
        )


def _as_json(request: ModelInferRequest) -> dict[str, Any]:
    # The server's descriptors leave out json_name, and one of the clients reads nothing else.
    return json_format.MessageToDict(request, preserving_proto_field_name=True)


@dataclass(slots=True)
class Outcome:
    """How one call ended. Trailers whose names end in -bin are base64 with padding; `errors` are
    those of a stream that were told in-band; `health` is the name of a serving status.
    """

    code: int = 0
    message: str = ""
    responses: list[ModelInferResponse] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    trailers: dict[str, str] = field(default_factory=dict)
    health: str = ""


def read_outcomes(text: str) -> list[Outcome]:
    """What a program wrote to its standard output."""
    return [_outcome(entry) for entry in json.loads(text)["outcomes"]]


def _outcome(entry: dict[str, Any]) -> Outcome:
    responses = entry.pop("responses", [])
    outcome = Outcome(**entry)
    outcome.responses = [json_format.ParseDict(r, ModelInferResponse()) for r in responses]
    return outcome


def trailers_of(metadata: Sequence[tuple[str, str | bytes]] | None) -> dict[str, str]:
    """Metadata as an outcome has it."""
    return {
        name: value if isinstance(value, str) else base64.b64encode(value).decode()
        for name, value in metadata or ()
    }


class Client(Met, Protocol):
    """A foreign client. It knows nothing of the checks."""

    def run(self, place: Place, job: Job, scratch: Path) -> list[Outcome]:
        """Do the job; `scratch` is an empty folder for its files."""
