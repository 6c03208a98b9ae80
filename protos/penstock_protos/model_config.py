"""Messages of a model's configuration, of which config.pbtxt is the text; typed by the .pyi."""

from penstock_protos.pool import module_attributes

__getattr__, __dir__ = module_attributes(globals())
