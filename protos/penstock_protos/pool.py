"""The private descriptor pool, and the classes made from it.

Protobuf's default pool refuses a second file that defines `inference.ModelInferRequest`, and every
client of this protocol brings one. Ours live in a pool of their own, loaded from a descriptor set
rather than from generated code, which would be tied to one version of protobuf.
"""

import copyreg
import pkgutil
from collections.abc import Callable, Iterator

from google.protobuf.descriptor import Descriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

_MODULES = {
    "model_config.proto": "penstock_protos.model_config",
    "grpc_service.proto": "penstock_protos.inference",
    "health.proto": "penstock_protos.health",
    "reflection.proto": "penstock_protos.reflection",
    "google/protobuf/any.proto": "penstock_protos.rpc_status",
    "google/protobuf/duration.proto": "penstock_protos.rpc_status",
    "rpc_status.proto": "penstock_protos.rpc_status",
}
"""The module that shows the definitions of a file."""


def _descriptor_set() -> FileDescriptorSet:
    data = pkgutil.get_data(__package__, "descriptors.binpb")
    if data is None:
        raise FileNotFoundError(f"{__package__} is installed without its descriptors.binpb")
    return FileDescriptorSet.FromString(data)


def _load(descriptors: FileDescriptorSet) -> DescriptorPool:
    pool = DescriptorPool()
    for file in descriptors.file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


_DESCRIPTORS = _descriptor_set()

POOL = _load(_DESCRIPTORS)
"""Every file of this package and what it imports; reflection answers from here."""


def services() -> tuple[str, ...]:
    """Full names of the gRPC services that the pool describes."""
    return tuple(
        f"{file.package}.{service.name}" for file in _DESCRIPTORS.file for service in file.service
    )


def message(full_name: str) -> type[Message]:
    """The class of a message such as `inference.ModelInferRequest`; KeyError if unknown."""
    return _message_class(POOL.FindMessageTypeByName(full_name))


def module_attributes(
    namespace: dict[str, object],
) -> tuple[Callable[[str], object], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of the module whose `globals()` are given.

    Enums are defined at once, a message when it is first asked for: protobuf takes 20 us to make
    a class, and no program uses them all.
    """
    module = namespace["__name__"]
    messages: dict[str, Descriptor] = {}
    for file in [POOL.FindFileByName(name) for name, shown in _MODULES.items() if shown == module]:
        messages.update(file.message_types_by_name)
        for enum in file.enum_types_by_name.values():
            namespace[enum.name] = EnumTypeWrapper(enum)
            namespace.update({value.name: value.number for value in enum.values})

    def define(name: str) -> object:
        if name not in messages:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        namespace[name] = _message_class(messages[name])
        return namespace[name]

    return define, lambda: sorted({*namespace, *messages})


def _message_class(descriptor: Descriptor) -> type[Message]:
    cls = GetMessageClass(descriptor)
    if cls not in copyreg.dispatch_table:
        copyreg.pickle(cls, _reduce)
        cls.__module__ = _MODULES.get(descriptor.file.name, __name__)
        cls.__qualname__ = descriptor.full_name.removeprefix(f"{descriptor.file.package}.")
        for nested in descriptor.nested_types:
            if not nested.GetOptions().map_entry:
                setattr(cls, nested.name, _message_class(nested))
        # Whoever has this message can reach those, and they too have to pickle.
        for field_type in _field_types(descriptor):
            _message_class(field_type)
    return cls


def _field_types(descriptor: Descriptor) -> Iterator[Descriptor]:
    for field in descriptor.fields:
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            yield from _field_types(field.message_type)
        else:
            yield field.message_type


def _reduce(value: Message) -> tuple[Callable[..., Message], tuple[object, ...]]:
    # Protobuf's own way looks nested messages up in the default pool: it fails, or it comes back
    # as a client's class of the same name.
    return _parse, (type(value), value.SerializeToString())


def _parse(cls: type[Message], data: bytes) -> Message:
    return cls.FromString(data)
