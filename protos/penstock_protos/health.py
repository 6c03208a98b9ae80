"""Messages of `grpc.health.v1.Health`; typed by health.pyi."""

from penstock_protos.pool import module_attributes

__getattr__, __dir__ = module_attributes(globals())
