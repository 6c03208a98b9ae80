"""The checks of `penstock selftest`: each asks one thing and says what came instead of what."""

import time
from collections.abc import Callable

from penstock.cli import selftest_refusals as refusals
from penstock.cli.selftest_target import NO_MODEL, Skipped, Target, expect, optional
from penstock.client import calls
from penstock_protos import health as health_pb
from penstock_protos import inference as pb
from penstock_protos import reflection as reflection_pb
from penstock_runtime.datatype import DataType
from penstock_runtime.tensor import Tensor

SERVICE = "inference.GRPCInferenceService"
_REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
_WATCH = "/grpc.health.v1.Health/Watch"
COUNTED_WITHIN_S = 2.0


def live(target: Target) -> None:
    """ServerLive."""
    expect(target.client.server_live(), "live is false")


def ready(target: Target) -> None:
    """ServerReady."""
    expect(target.client.server_ready(), "ready is false")


def server_metadata(target: Target) -> None:
    """ServerMetadata."""
    metadata = target.client.server_metadata()
    expect(bool(metadata.name and metadata.version), f"name {metadata.name!r} or version is empty")


def health_check(target: Target) -> None:
    """Health/Check of the server as a whole."""
    with optional():
        status = target.client.health()
        expect(status == "SERVING", f"expected SERVING, got {status}")


def health_unknown(target: Target) -> None:
    """Health/Check of a name that no one has."""
    with optional():
        status = target.client.health(NO_MODEL)
        expect(status == "SERVICE_UNKNOWN", f"expected NOT_FOUND, got {status}")


def health_watch(target: Target) -> None:
    """Health/Watch answers at once."""
    with optional():
        request = health_pb.HealthCheckRequest().SerializeToString()
        answer = target.wire.first(_WATCH, request)
        status = health_pb.HealthCheckResponse.FromString(answer).status
        expect(status == health_pb.HealthCheckResponse.SERVING, f"the first status is {status}")


def reflection(target: Target) -> None:
    """The service describes itself."""
    with optional():
        request = reflection_pb.ServerReflectionRequest(list_services="")
        answer = target.wire.first(_REFLECTION, request.SerializeToString())
        listed = reflection_pb.ServerReflectionResponse.FromString(answer)
        names = [each.name for each in listed.list_services_response.service]
        expect(SERVICE in names, f"{SERVICE} is not among {names}")


def index(target: Target) -> None:
    """RepositoryIndex lists the model as READY."""
    with optional():
        states = {e.name: e.state for e in target.client.index() if e.state == "READY"}
        expect(target.model in states, f"{target.model} is not READY in the index")


def model_ready(target: Target) -> None:
    """ModelReady of the model, and of one that is not there."""
    expect(target.client.model_ready(target.model, target.version), "ready is false")
    expect(not target.client.model_ready(NO_MODEL), "a model that is not there is ready")


def model_metadata(target: Target) -> None:
    """ModelMetadata names, types and shapes."""
    metadata = target.metadata
    expect(metadata.name == target.model, f"the name is {metadata.name!r}")
    expect(bool(metadata.inputs and metadata.outputs), "inputs or outputs are missing")
    for each in (*metadata.inputs, *metadata.outputs):
        expect(bool(each.name), "a tensor has no name")
        expect(each.datatype in DataType.__members__, f"{each.name} is {each.datatype!r}")


def model_config(target: Target) -> None:
    """ModelConfig agrees with ModelMetadata."""
    with optional():
        config = target.client.model_config(target.model, target.version)
        names = {each.name for each in config.input}
        expect(names == {each.name for each in target.metadata.inputs}, f"its inputs are {names}")


def infer(target: Target) -> None:
    """ModelInfer answers with every output, typed as the metadata says."""
    result = target.client.infer(target.model, target.inputs, version=target.version)
    for each in target.metadata.outputs:
        expect(each.name in result, f"output {each.name} is missing")
        datatype = result.tensor(each.name).datatype.value
        expect(datatype == each.datatype, f"{each.name} is {datatype}, not {each.datatype}")


def request_id(target: Target) -> None:
    """The id of a request comes back."""
    result = target.client.infer(target.model, target.inputs, version=target.version, id="id-42")
    expect(result.id == "id-42", f"expected id 'id-42', got {result.id!r}")


def chosen_output(target: Target) -> None:
    """Only the outputs that were asked for are sent."""
    name = target.metadata.outputs[0].name
    result = target.client.infer(
        target.model, target.inputs, version=target.version, outputs=[name]
    )
    expect(list(result) == [name], f"asked for {name}, got {list(result)}")


def same_twice(target: Target) -> None:
    """Raw and typed contents mean the same."""
    message = pb.ModelInferRequest.FromString(target.request())
    if any(each.datatype in ("FP16", "BF16") for each in message.inputs):
        raise Skipped("FP16 and BF16 have no typed form")
    raw = calls.read_result(target.wire.unary("ModelInfer", message.SerializeToString()))
    _make_typed(message, target.inputs)
    typed = calls.read_result(target.wire.unary("ModelInfer", message.SerializeToString()))
    for name in raw:
        same = raw[name].shape == typed[name].shape and raw[name].dtype == typed[name].dtype
        expect(same, f"output {name} is another one for typed contents")


_TYPED = {
    "BOOL": "bool_contents",
    "INT64": "int64_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def _make_typed(message: pb.ModelInferRequest, inputs: dict[str, Tensor]) -> None:
    message.ClearField("raw_input_contents")
    for each in message.inputs:
        small = "uint_contents" if each.datatype.startswith("U") else "int_contents"
        values = inputs[each.name].numpy().reshape(-1).tolist()
        if each.datatype == "BYTES":
            values = [v if isinstance(v, bytes) else v.encode() for v in values]
        getattr(each.contents, _TYPED.get(each.datatype, small)).extend(values)


def compressed(target: Target) -> None:
    """A compressed request is accepted."""
    answer = target.wire.unary("ModelInfer", target.request(), compressed=True)
    expect(len(calls.read_result(answer)) > 0, "the answer has no outputs")


def stream(target: Target) -> None:
    """ModelStreamInfer answers each request, with its id."""
    with optional():
        requests = [target.request(id="one"), target.request(id="two")]
        answers = [pb.ModelStreamInferResponse.FromString(a) for a in target.wire.stream(requests)]
        ids = [answer.infer_response.id for answer in answers]
        wrong = next((a.error_message for a in answers if a.error_message), "")
        expect(not wrong, f"a message holds the error {wrong!r}")
        expect({*ids} == {"one", "two"}, f"sent ids one and two, got {ids}")


def stream_error(target: Target) -> None:
    """A bad request of a stream is a message, and the next one is still answered."""
    with optional():
        requests = [target.request(model_name=NO_MODEL), target.request(id="after")]
        answers = [pb.ModelStreamInferResponse.FromString(a) for a in target.wire.stream(requests)]
        expect(any(a.error_message for a in answers), "no message holds an error")
        expect(any(a.infer_response.id == "after" for a in answers), "the stream did not go on")


def statistics(target: Target) -> None:
    """ModelStatistics counts requests."""
    with optional():
        before = _successes(target)
        target.client.infer(target.model, target.inputs, version=target.version)
        after = _successes_beyond(before, target)
        expect(after > before, f"{before} successes before a request, {after} after it")


def _successes_beyond(before: int, target: Target) -> int:
    """The successes once they have risen: an answer may arrive before it is counted."""
    until = time.monotonic() + COUNTED_WITHIN_S
    while (after := _successes(target)) <= before and time.monotonic() < until:
        time.sleep(0.02)
    return after


def _successes(target: Target) -> int:
    stats = target.client.statistics(target.model, target.version)
    return sum(each.inference_stats.success.count for each in stats)


CHECKS: tuple[tuple[str, Callable[[Target], None]], ...] = (
    ("the server is live", live),
    ("the server is ready", ready),
    ("the server says its name and version", server_metadata),
    ("grpc.health.v1 says SERVING", health_check),
    ("grpc.health.v1 knows no service that is not there", health_unknown),
    ("a health watch tells the status at once", health_watch),
    ("the service describes itself by reflection", reflection),
    ("the index lists the model as READY", index),
    ("the model is ready, one that is not there is not", model_ready),
    ("the model names its inputs and outputs", model_metadata),
    ("the configuration agrees with the metadata", model_config),
    ("a request is answered with every output", infer),
    ("the id of a request comes back", request_id),
    ("only the outputs that were asked for are sent", chosen_output),
    ("typed contents are accepted like raw ones", same_twice),
    ("a compressed request is accepted", compressed),
    ("a stream answers each of its requests", stream),
    ("an error leaves a stream open", stream_error),
    ("the statistics count a request", statistics),
    ("a model that is not there is NOT_FOUND", refusals.unknown_model),
    ("a version that is no number is refused", refusals.bad_version),
    ("an input too many is refused", refusals.unknown_input),
    ("a request without inputs is refused", refusals.missing_input),
    ("a wrong datatype is refused", refusals.wrong_datatype),
    ("a wrong byte size is refused", refusals.wrong_size),
    ("bytes that are no message are refused", refusals.no_message),
)
