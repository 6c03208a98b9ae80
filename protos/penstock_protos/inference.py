"""Messages of `inference.GRPCInferenceService`; typed by inference.pyi."""

from penstock_protos.pool import module_attributes

__getattr__, __dir__ = module_attributes(globals())
