"""What the checks of `penstock selftest` stand on: the server under test, and how a check fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

from penstock.cli.infer import make_inputs
from penstock.cli.selftest_wire import Wire
from penstock.client import calls
from penstock.client.errors import InferenceError
from penstock.client.sync import Client
from penstock_protos import inference as pb
from penstock_runtime.errors import Status
from penstock_runtime.tensor import Tensor

NO_MODEL = "penstock-selftest-no-such-model"


class Failed(Exception):
    """What came instead of what was expected."""


class Skipped(Exception):
    """Why the check does not apply to this server."""


class Target:
    """The server, and the model of it that is asked."""

    def __init__(self, client: Client, wire: Wire, model: str, version: str) -> None:
        self.client = client
        self.wire = wire
        self.model = model
        self.version = version

    @cached_property
    def metadata(self) -> pb.ModelMetadataResponse:
        """What the model says of its inputs and outputs."""
        return self.client.model_metadata(self.model, self.version)

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        """Made-up inputs that the model should accept."""
        return make_inputs(self.metadata, {}, made_up=True)

    def request(self, **changes: object) -> bytes:
        """A good ModelInferRequest as bytes, with some of its fields changed."""
        message = pb.ModelInferRequest.FromString(
            calls.infer(self.model, self.inputs, version=self.version).request
        )
        for name, value in changes.items():
            setattr(message, name, value)
        return message.SerializeToString()


def expect(holds: bool, otherwise: str) -> None:
    """Fail with a sentence unless something holds."""
    if not holds:
        raise Failed(otherwise)


@contextmanager
def optional() -> Iterator[None]:
    """Skip when the server does not offer what is asked."""
    try:
        yield
    except InferenceError as error:
        if error.status is Status.UNIMPLEMENTED:
            raise Skipped(error.message) from None
        raise


@contextmanager
def refused(*statuses: Status) -> Iterator[None]:
    """Fail unless the calls inside end with one of these statuses."""
    wanted = " or ".join(status.value for status in statuses)
    try:
        yield
    except InferenceError as error:
        if error.status not in statuses:
            raise Failed(f"expected {wanted}, got {error}") from None
        expect(bool(error.message), f"{error.status.value} came without a text")
        return
    raise Failed(f"expected {wanted}, got an answer")
