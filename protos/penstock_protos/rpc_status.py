"""Messages of the rich gRPC status: `google.rpc.Status` and its details; typed by the .pyi.

`Any` and `Duration` belong to the private pool: those of google.protobuf are other classes.
"""

from penstock_protos.pool import module_attributes

__getattr__, __dir__ = module_attributes(globals())
