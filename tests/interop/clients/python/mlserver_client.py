"""MLServer's own messages and stubs against the server at argv[1]: what they met, as JSON.

MLServer has no gRPC client class; its users call these stubs, one of them of a service of its own.
Runs in an environment of its own, which tests/interop/setup makes.
"""

import json
import sys
from collections.abc import Iterator
from typing import Any

import grpc
from mlserver.codecs import NumpyCodec
from mlserver.grpc import converters
from mlserver.grpc import dataplane_pb2 as pb
from mlserver.grpc import model_repository_pb2 as repository_pb
from mlserver.grpc.dataplane_pb2_grpc import GRPCInferenceServiceStub
from mlserver.grpc.model_repository_pb2_grpc import ModelRepositoryServiceStub
from mlserver.types import InferenceRequest, RequestInput

BARE = (("penstock-bare-stream", "true"),)


def meet(address: str) -> dict[str, Any]:
    """Ask, infer, stream, list, unload and load."""
    with grpc.insecure_channel(address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        return {
            "live": stub.ServerLive(pb.ServerLiveRequest()).live,
            "ready": stub.ModelReady(pb.ModelReadyRequest(name="simple")).ready,
            "metadata": [t.name for t in stub.ModelMetadata(named(pb)).inputs],
            "sums": numbers(stub.ModelInfer(request())),
            "stream": [numbers(a) for a in stub.ModelStreamInfer(requests(), metadata=BARE)],
            "repository": control(ModelRepositoryServiceStub(channel)),
            "repository, old name": control(stub, pb),
        }


def named(messages: Any) -> Any:
    """A request for the metadata of the model."""
    return messages.ModelMetadataRequest(name="simple")


def request() -> Any:
    """Two inputs as MLServer's converters write them."""
    inputs = [
        RequestInput(name=name, shape=[1, 16], datatype="INT32", data=list(range(16)))
        for name in ("INPUT0", "INPUT1")
    ]
    return converters.ModelInferRequestConverter.from_types(
        InferenceRequest(inputs=inputs), model_name="simple"
    )


def requests() -> Iterator[Any]:
    """Two of them."""
    yield request()
    yield request()


def numbers(answer: Any) -> list[int]:
    """The first output, as MLServer's converters and codecs read it."""
    response = converters.ModelInferResponseConverter.to_types(answer)
    return [int(x) for x in NumpyCodec.decode_output(response.outputs[0]).ravel()]


def control(stub: Any, messages: Any = repository_pb) -> dict[str, Any]:
    """The three calls of the repository, whichever service they belong to."""
    name = "simple_identity"
    stub.RepositoryModelUnload(messages.RepositoryModelUnloadRequest(model_name=name))
    gone = states(stub.RepositoryIndex(messages.RepositoryIndexRequest()))
    stub.RepositoryModelLoad(messages.RepositoryModelLoadRequest(model_name=name))
    back = states(stub.RepositoryIndex(messages.RepositoryIndexRequest(ready=True)))
    return {"unloaded": gone[name], "loaded": back[name]}


def states(index: Any) -> dict[str, str]:
    """The state of each model that is told of."""
    return {model.name: model.state for model in index.models}


if __name__ == "__main__":
    print(json.dumps(meet(sys.argv[1])))
