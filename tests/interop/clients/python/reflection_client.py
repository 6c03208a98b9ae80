"""gRPC's own reflection client: prints what a server says of itself, as JSON.

Given host:port, it lists the services, and describes ModelInfer from what it was told alone.
"""

import json
import sys
from importlib.metadata import version

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)


def main(target: str) -> None:
    """Ask, and print."""
    with grpc.insecure_channel(target) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        service = DescriptorPool(database).FindServiceByName("inference.GRPCInferenceService")
        method = service.FindMethodByName("ModelInfer")
        fields = [field.name for field in method.input_type.fields]
        told = {"services": list(database.get_services()), "fields": fields}
    json.dump(told, sys.stdout)


if sys.argv[1] == "--version":
    print(version("grpcio-reflection"))
else:
    main(sys.argv[1])
