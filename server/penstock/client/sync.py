"""The blocking client."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from penstock.client import calls
from penstock.client.calls import Call, Outputs, RegionStatus
from penstock.client.channel import TLS, ChannelSettings
from penstock.client.deadline import NS, POLL_S, Deadline, never_ready, not_ready_yet
from penstock.client.errors import InferenceError
from penstock.client.inputs import InputValue
from penstock.client.open import open_channel
from penstock.client.result import InferResult
from penstock.client.retry import Retries, RetryPolicy
from penstock.client.streams import ResultStream
from penstock_protos import inference as pb
from penstock_protos.model_config import ModelConfig
from penstock_runtime.errors import Status
from penstock_runtime.request import EMPTY, Parameters

T = TypeVar("T")
_NO_METADATA: Mapping[str, str] = {}


class Client:
    """A client of any server that speaks the v2 protocol over gRPC. Threads may share one.

    `target` is host:port, unix:/path, dns:///name:port, or several addresses (a sequence, or commas
    between them), over which calls are balanced by health. Every call has a deadline: `timeout`
    seconds unless it names its own, math.inf for none. A call that fails is an InferenceError; an
    input that is no tensor is InvalidArgument before anything is sent. `transport` is grpcio or
    http2 (None: $PENSTOCK_CLIENT_TRANSPORT, or grpcio); `compression` of requests is gzip or
    deflate; `keepalive_s` of silence during calls, and the connection is tested.

        with Client("localhost:8001") as client:
            result = client.infer("add_sub", {"INPUT0": a, "INPUT1": b})
            result["OUTPUT0"]
    """

    def __init__(
        self,
        target: str | Sequence[str] = "localhost:8001",
        *,
        timeout: float = 30.0,
        retries: RetryPolicy | None = None,
        metadata: Mapping[str, str] = _NO_METADATA,
        tls: TLS | None = None,
        transport: str | None = None,
        compression: str = "",
        keepalive_s: float | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        settings = ChannelSettings.of(target, tls, transport, compression, keepalive_s)
        self.target = ",".join(settings.addresses)
        self._timeout = timeout
        self._retries = retries or RetryPolicy()
        self._metadata = tuple(metadata.items())
        self._clock = clock
        self._sleep = sleep
        self._channel = open_channel(settings)

    # -- inference -------------------------------------------------------------------------------

    def infer(
        self,
        model: str,
        inputs: Mapping[str, InputValue],
        *,
        version: str = "",
        outputs: Outputs = (),
        parameters: Parameters = EMPTY,
        id: str = "",  # noqa: A002 - the protocol's name for it
        timeout: float | None = None,
        priority: int = 0,
    ) -> InferResult:
        """One request, one answer.

        An input is a numpy or torch array, a Tensor, or a nested sequence (text for BYTES), with
        its batch dimension where the model has one; a Tensor whose array is a Place lies in shared
        memory. `outputs` empty asks for all; a mapping says for each a Place, or None.
        """
        call = calls.infer(
            model,
            inputs,
            version=version,
            outputs=outputs,
            parameters=parameters,
            id=id,
            priority=priority,
        )
        return self._run(call, timeout)

    def stream(
        self,
        model: str,
        inputs: Mapping[str, InputValue],
        *,
        version: str = "",
        outputs: Outputs = (),
        parameters: Parameters = EMPTY,
        id: str = "",  # noqa: A002 - the protocol's name for it
        timeout: float | None = None,
        priority: int = 0,
    ) -> ResultStream:
        """One request, any number of answers; the deadline holds for all of them together."""
        call = calls.infer(
            model,
            inputs,
            version=version,
            outputs=outputs,
            parameters=parameters,
            id=id,
            priority=priority,
        )
        deadline = self._deadline(timeout)
        answers = self._channel.stream(
            calls.INFERENCE + "ModelStreamInfer",
            call.request,
            deadline.remaining_s(self._clock()),
            self._metadata + calls.TRUE_STATUS,
        )
        return ResultStream(answers)

    # -- server and models -----------------------------------------------------------------------

    def server_live(self, *, timeout: float | None = None) -> bool:
        """Whether the server runs."""
        return self._run(calls.server_live(), timeout)

    def server_ready(self, *, timeout: float | None = None) -> bool:
        """Whether the server takes requests."""
        return self._run(calls.server_ready(), timeout)

    def model_ready(self, model: str, version: str = "", *, timeout: float | None = None) -> bool:
        """Whether the model takes requests; False for one that is not there."""
        return self._run(calls.model_ready(model, version), timeout)

    def wait_ready(
        self, model: str = "", version: str = "", *, timeout: float | None = None
    ) -> None:
        """Return once the server (or a model) takes requests; DEADLINE_EXCEEDED if it never does.

        A server that is not there yet is waited for as well.
        """
        call = calls.model_ready(model, version) if model else calls.server_ready()
        deadline = self._deadline(timeout)
        while not self._answers_yes(call, deadline):
            if deadline.passed(self._clock()):
                raise never_ready(model, self.target, deadline)
            self._sleep(POLL_S)

    def health(self, service: str = "", *, timeout: float | None = None) -> str:
        """grpc.health.v1 status: SERVING, NOT_SERVING, or SERVICE_UNKNOWN for an unknown name."""
        try:
            return self._run(calls.health(service), timeout)
        except InferenceError as error:
            if error.status is Status.NOT_FOUND:
                return "SERVICE_UNKNOWN"
            raise

    def server_metadata(self, *, timeout: float | None = None) -> pb.ServerMetadataResponse:
        """Name, version and extensions of the server."""
        return self._run(calls.server_metadata(), timeout)

    def model_metadata(
        self, model: str, version: str = "", *, timeout: float | None = None
    ) -> pb.ModelMetadataResponse:
        """Names, datatypes and shapes of the model's inputs and outputs."""
        return self._run(calls.model_metadata(model, version), timeout)

    def model_config(
        self, model: str, version: str = "", *, timeout: float | None = None
    ) -> ModelConfig:
        """The model's complete configuration."""
        return self._run(calls.model_config(model, version), timeout)

    def statistics(
        self, model: str = "", version: str = "", *, timeout: float | None = None
    ) -> list[pb.ModelStatistics]:
        """Counters and durations of one model, or of all."""
        return self._run(calls.statistics(model, version), timeout)

    def index(
        self, *, ready: bool = False, timeout: float | None = None
    ) -> list[pb.RepositoryIndexResponse.ModelIndex]:
        """Every model version of the repository with its state, or only those that are READY."""
        return self._run(calls.index(ready), timeout)

    def load(
        self,
        model: str,
        config: str | Mapping[str, object] | None = None,
        files: Mapping[str, bytes | Path] | None = None,
        *,
        timeout: float | None = None,
    ) -> None:
        """Load or reload the model; returns when it serves.

        `config` overrides its configuration (JSON, or a mapping that becomes JSON); `files` replace
        its directory, by names such as 1/model.py.
        """
        self._run(calls.load(model, config, files), timeout)

    def unload(
        self, model: str, *, unload_dependents: bool = False, timeout: float | None = None
    ) -> None:
        """Unload the model, and if asked the models that only it needed."""
        self._run(calls.unload(model, unload_dependents), timeout)

    # -- shared memory ---------------------------------------------------------------------------

    def register_shared_memory(
        self,
        name: str,
        key: str,
        byte_size: int,
        offset: int = 0,
        *,
        timeout: float | None = None,
    ) -> None:
        """Let the server open a shared memory object of this machine by its key, as region `name`.

        It stays registered until it is unregistered, whatever becomes of this client.
        """
        self._run(calls.register_shared_memory(name, key, byte_size, offset), timeout)

    def unregister_shared_memory(self, name: str = "", *, timeout: float | None = None) -> None:
        """Let the server forget a region, or all of system memory, whoever registered them."""
        self._run(calls.unregister_shared_memory(name), timeout)

    def shared_memory(
        self, name: str = "", *, timeout: float | None = None
    ) -> dict[str, RegionStatus]:
        """The region of this name, or all, with key, offset and size."""
        return self._run(calls.shared_memory(name), timeout)

    # -- how a call is made ----------------------------------------------------------------------

    def _deadline(self, timeout: float | None) -> Deadline:
        return Deadline.after(self._timeout if timeout is None else timeout, self._clock())

    def _run(self, call: Call[T], timeout: float | None) -> T:
        deadline = self._deadline(timeout)
        retries = Retries(self._retries, deadline.at_ns)
        while True:
            try:
                return self._attempt(call, deadline)
            except InferenceError as error:
                delay = retries.delay_after(error, self._clock()) if call.retry else None
                if delay is None:
                    raise
                self._sleep(delay / NS)

    def _attempt(self, call: Call[T], deadline: Deadline, wait: bool = False) -> T:
        left = deadline.remaining_s(self._clock())
        answer = self._channel.unary(call.method, call.request, left, self._metadata, wait)
        return call.read(answer)

    def _answers_yes(self, call: Call[bool], deadline: Deadline) -> bool:
        try:
            return self._attempt(call, deadline, wait=True)
        except InferenceError as error:
            if not_ready_yet(error):
                return False
            raise

    def close(self) -> None:
        """Close the channel; calls and streams that are still open end CANCELLED."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self.target!r})"
