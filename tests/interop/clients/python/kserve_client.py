"""KServe's own gRPC client against the server at argv[1]: what it met, as JSON.

Runs in an environment of its own, which tests/interop/setup makes.
"""

import asyncio
import json
import logging
import sys
from typing import Any

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest
from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

NUMBERS = np.arange(16, dtype=np.int32).reshape(1, 16)


async def meet(address: str) -> dict[str, Any]:
    """Ask, infer in both encodings, unload and load."""
    logging.disable()
    client = InferenceGRPCClient(address, timeout=30, retries=2)
    async with client:
        found: dict[str, Any] = {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model ready": await client.is_model_ready("simple"),
            "unknown ready": await client.is_model_ready("nowhere"),
            "sums, raw": await sums(client, binary=True),
            "sums, typed": await sums(client, binary=False),
            "refusal": await refusal(client),
        }
    async with grpc.aio.insecure_channel(address) as channel:
        found |= await control(GRPCInferenceServiceStub(channel))
    return found


async def sums(client: InferenceGRPCClient, *, binary: bool) -> list[int]:
    """One request whose tensors are raw, or fields of the message."""
    inputs = []
    for name in ("INPUT0", "INPUT1"):
        tensor = InferInput(name, [1, 16], "INT32")
        tensor.set_data_from_numpy(NUMBERS, binary_data=binary)
        inputs.append(tensor)
    answer = await client.infer(InferRequest("simple", inputs, request_id="one"))
    return [int(x) for x in answer.outputs[0].as_numpy().ravel()]


async def refusal(client: InferenceGRPCClient) -> str:
    """How the client tells an error."""
    try:
        await client.infer(InferRequest("nowhere", [InferInput("X", [1], "INT32", [1])]))
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


async def control(stub: GRPCInferenceServiceStub) -> dict[str, Any]:
    """KServe's messages of load and unload have fields of their own, in both directions."""
    metadata = await stub.ModelMetadata(pb.ModelMetadataRequest(name="simple"))
    unloaded = await stub.RepositoryModelUnload(
        pb.RepositoryModelUnloadRequest(model_name="simple")
    )
    gone = await stub.ModelReady(pb.ModelReadyRequest(name="simple"))
    loaded = await stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="simple"))
    back = await stub.ModelReady(pb.ModelReadyRequest(name="simple"))
    return {
        "metadata": [tensor.name for tensor in metadata.inputs],
        "unloaded": [unloaded.model_name, unloaded.isUnloaded, gone.ready],
        "loaded": [loaded.model_name, loaded.isLoaded, back.ready],
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(meet(sys.argv[1]))))
