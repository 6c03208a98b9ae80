"""The checks of `penstock selftest` that send what is wrong, and expect to be told so."""

import numpy as np

from penstock.cli.selftest_target import NO_MODEL, Target, refused
from penstock_protos import inference as pb
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import Status
from penstock_runtime.tensor import Tensor


def unknown_model(target: Target) -> None:
    """A model that is not there."""
    with refused(Status.NOT_FOUND):
        target.wire.unary("ModelInfer", target.request(model_name=NO_MODEL))


def bad_version(target: Target) -> None:
    """A version that is no number."""
    with refused(Status.INVALID_ARGUMENT, Status.NOT_FOUND):
        target.client.infer(target.model, target.inputs, version="penstock")


def unknown_input(target: Target) -> None:
    """An input too many."""
    extra = Tensor("no_such_input", DataType.FP32, (1, 1), np.zeros((1, 1), np.float32))
    with refused(Status.INVALID_ARGUMENT):
        target.client.infer(target.model, {**target.inputs, "no_such_input": extra})


def missing_input(target: Target) -> None:
    """No input at all."""
    with refused(Status.INVALID_ARGUMENT):
        target.client.infer(target.model, {})


def wrong_datatype(target: Target) -> None:
    """An input of another datatype."""
    name, tensor = next(iter(target.inputs.items()))
    other = DataType.FP64 if tensor.datatype is not DataType.FP64 else DataType.INT64
    wrong = Tensor(name, other, tensor.shape, np.zeros(tensor.shape, other.numpy))
    with refused(Status.INVALID_ARGUMENT):
        target.client.infer(target.model, {**target.inputs, name: wrong})


def wrong_size(target: Target) -> None:
    """Bytes that are not as many as the shape says."""
    message = pb.ModelInferRequest.FromString(target.request())
    message.raw_input_contents[0] += b"\0"
    with refused(Status.INVALID_ARGUMENT):
        target.wire.unary("ModelInfer", message.SerializeToString())


def no_message(target: Target) -> None:
    """Bytes that are no message at all."""
    # Servers that leave parsing to gRPC answer INTERNAL or UNKNOWN; only an answer is wrong.
    with refused(Status.INVALID_ARGUMENT, Status.INTERNAL, Status.UNKNOWN):
        target.wire.unary("ModelInfer", b"\x0a\xff\xff\xff\xff\x0f")
