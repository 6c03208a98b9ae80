"""Messages of `grpc.reflection.v1.ServerReflection`; v1alpha has the same bytes. Typed by .pyi."""

from penstock_protos.pool import module_attributes

__getattr__, __dir__ = module_attributes(globals())
