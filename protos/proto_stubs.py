"""Writes the .pyi of a module of messages from their descriptors.

The classes are made at run time, so that only these stubs tell a type checker, and a reader, what
a message holds. It knows nothing of files on disk.
"""

import keyword
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

LINE_LENGTH = 100
WELL_KNOWN = {"google.protobuf.Any": "Any", "google.protobuf.Duration": "Duration"}

_PYTHON_TYPES = {
    FieldDescriptorProto.TYPE_BOOL: "bool",
    FieldDescriptorProto.TYPE_STRING: "str",
    FieldDescriptorProto.TYPE_BYTES: "bytes",
    FieldDescriptorProto.TYPE_FLOAT: "float",
    FieldDescriptorProto.TYPE_DOUBLE: "float",
}
"""Scalar types; whatever is missing is an integer."""

_IMPORTS = {
    "collections.abc": "Iterable Mapping",
    "typing": "Final Literal Never NewType overload",
    "google.protobuf.descriptor": "Descriptor EnumDescriptor",
    "google.protobuf.internal": "well_known_types",
    "google.protobuf.internal.containers": (
        "MessageMap RepeatedCompositeFieldContainer RepeatedScalarFieldContainer ScalarMap"
    ),
    "google.protobuf.internal.enum_type_wrapper": "_EnumTypeWrapper",
    "google.protobuf.message": "Message",
}
"""What a stub may need; only what it does need is imported."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Where a definition stands: its full proto name, its Python name, its comment's path."""

    full_name: str
    python_name: str
    path: tuple[int, ...]

    def inside(self, name: str, *path: int) -> "Scope":
        """The scope of a definition inside this one."""
        python_name = f"{self.python_name}.{name}".lstrip(".")
        return Scope(f"{self.full_name}.{name}", python_name, self.path + path)


class Names:
    """Finds the Python name and module of a message or enum, and the entries of maps."""

    def __init__(
        self, descriptors: FileDescriptorSet, modules: Mapping[str, tuple[str, ...]]
    ) -> None:
        self.python_names: dict[str, tuple[str, str]] = {}
        self.map_entries: dict[str, DescriptorProto] = {}
        owners = {file: module for module, files in modules.items() for file in files}
        for file in descriptors.file:
            if module := owners.get(file.name):
                self._add_file(file, module)

    def _add_file(self, file: FileDescriptorProto, module: str) -> None:
        scope = Scope(file.package, "", ())
        for enum in file.enum_type:
            self._add(scope.inside(enum.name), module)
        for message in file.message_type:
            self._add_message(message, scope.inside(message.name), module)

    def _add_message(self, message: DescriptorProto, scope: Scope, module: str) -> None:
        self._add(scope, module)
        if message.options.map_entry:
            self.map_entries[scope.full_name] = message
        for enum in message.enum_type:
            self._add(scope.inside(enum.name), module)
        for nested in message.nested_type:
            self._add_message(nested, scope.inside(nested.name), module)

    def _add(self, scope: Scope, module: str) -> None:
        self.python_names[scope.full_name] = (module, scope.python_name)


@dataclass(frozen=True, slots=True)
class FieldStub:
    """A field as Python sees it."""

    name: str
    number: int
    read_type: str
    init_type: str
    assignable: bool
    has_presence: bool

    @property
    def is_keyword(self) -> bool:
        """No attribute and no argument can have this name."""
        return keyword.iskeyword(self.name)

    def lines(self) -> Iterator[str]:
        """The attribute, or the property where protobuf forbids assignment."""
        if self.is_keyword:
            yield f"# {self.name}: {self.read_type}, through getattr and setattr only"
        elif self.assignable:
            yield f"{self.name}: {self.read_type}"
        else:
            yield "@property"
            yield f"def {self.name}(self) -> {self.read_type}: ..."


class StubWriter:
    """Writes the definitions of one file of descriptors."""

    def __init__(self, file: FileDescriptorProto, names: Names, module: str) -> None:
        self._file = file
        self._names = names
        self._module = module
        self.imports: set[str] = set()
        self._comments: dict[tuple[int, ...], str] = {}
        # Google's comments are not ours to copy.
        if not file.name.startswith("google/"):
            for location in file.source_code_info.location:
                text = " ".join(location.leading_comments.split())
                self._comments[tuple(location.path)] = text

    def lines(self) -> Iterator[str]:
        """Every top-level enum and message."""
        scope = Scope(self._file.package, "", ())
        for i, enum in enumerate(self._file.enum_type):
            yield from self._enum(enum, scope.inside(enum.name, 5, i))
            yield ""
        for i, message in enumerate(self._file.message_type):
            yield from self._message(message, scope.inside(message.name, 4, i))
            yield ""

    def _enum(self, enum: EnumDescriptorProto, scope: Scope) -> Iterator[str]:
        value_type = f"{scope.python_name}.ValueType"
        values = [f"{value.name}: {value_type}  # {value.number}" for value in enum.value]
        yield f"class _{enum.name}Type(_EnumTypeWrapper[{value_type}]):"
        yield from _indented(["DESCRIPTOR: EnumDescriptor", *values])
        yield ""
        yield f"class {enum.name}(metaclass=_{enum.name}Type):"
        yield from _indented(self._docstring(scope))
        yield from _indented(['ValueType = NewType("ValueType", int)'])
        yield ""
        yield from values

    def _message(self, message: DescriptorProto, scope: Scope) -> Iterator[str]:
        bases = ["Message"]
        if scope.full_name in WELL_KNOWN:
            bases.append(f"well_known_types.{WELL_KNOWN[scope.full_name]}")
        yield f"class {message.name}({', '.join(bases)}):"
        yield from _indented(self._docstring(scope))
        yield from _indented(["DESCRIPTOR: Descriptor"])
        if nested := list(self._nested(message, scope)):
            yield from _indented(["", *nested])
        fields = [self._field(field) for field in message.field]
        yield from _indented(f"{f.name.upper()}_FIELD_NUMBER: Final = {f.number}" for f in fields)
        for field in fields:
            yield from _indented(field.lines())
        yield from _indented(_constructor(fields))
        yield from _indented(_presence(message, fields))

    def _nested(self, message: DescriptorProto, scope: Scope) -> Iterator[str]:
        for i, enum in enumerate(message.enum_type):
            yield from self._enum(enum, scope.inside(enum.name, 4, i))
            yield ""
        for i, nested in enumerate(message.nested_type):
            if not nested.options.map_entry:
                yield from self._message(nested, scope.inside(nested.name, 3, i))
                yield ""

    def _docstring(self, scope: Scope) -> list[str]:
        if not (comment := self._comments.get(scope.path, "")):
            return []
        width = LINE_LENGTH - 4 * scope.python_name.count(".") - 10
        lines = textwrap.wrap(comment, width)
        lines[0] = f'"""{lines[0]}'
        if len(lines) > 1:
            return [*lines, '"""', ""]
        return [f'{lines[0]}"""', ""]

    def _field(self, field: FieldDescriptorProto) -> FieldStub:
        is_message = field.type == FieldDescriptorProto.TYPE_MESSAGE
        is_repeated = field.label == FieldDescriptorProto.LABEL_REPEATED
        entry = self._names.map_entries.get(field.type_name.lstrip("."))
        if entry is not None:
            read_type, init_type = self._map_types(entry)
        else:
            read_type = init_type = self._type(field)
            if is_repeated:
                kind = "Composite" if is_message else "Scalar"
                read_type = f"Repeated{kind}FieldContainer[{init_type}]"
                init_type = f"Iterable[{init_type}]"
        return FieldStub(
            field.name,
            field.number,
            read_type,
            init_type,
            assignable=not (is_message or is_repeated),
            has_presence=not is_repeated and (is_message or field.HasField("oneof_index")),
        )

    def _map_types(self, entry: DescriptorProto) -> tuple[str, str]:
        key, value = (self._type(field) for field in entry.field)
        is_message = entry.field[1].type == FieldDescriptorProto.TYPE_MESSAGE
        kind = "MessageMap" if is_message else "ScalarMap"
        return f"{kind}[{key}, {value}]", f"Mapping[{key}, {value}]"

    def _type(self, field: FieldDescriptorProto) -> str:
        if not field.type_name:
            return _PYTHON_TYPES.get(field.type, "int")
        module, name = self._names.python_names[field.type_name.lstrip(".")]
        if field.type == FieldDescriptorProto.TYPE_ENUM:
            name = f"{name}.ValueType"
        if module == self._module:
            return name
        self.imports.add(module)
        return f"{module}.{name}"


def stub(
    descriptors: FileDescriptorSet, modules: Mapping[str, tuple[str, ...]], files: tuple[str, ...]
) -> str:
    """The .pyi of the module that shows `files`; `modules` maps every module to its files."""
    names = Names(descriptors, modules)
    module = next(name for name, shown in modules.items() if shown == files)
    by_name = {file.name: file for file in descriptors.file}
    writers = [StubWriter(by_name[name], names, module) for name in files]
    lines = (line for writer in writers for line in writer.lines())
    body = "\n".join(part for line in lines for part in _wrapped(line))
    head = ["# Generated by protos/build_protos.py. Do not edit.", *_imports(body)]
    for name in sorted(set().union(*(writer.imports for writer in writers))):
        head += ["", f"from penstock_protos import {name}"]
    return "\n".join([*head, "", body.rstrip(), ""])


def _imports(body: str) -> Iterator[str]:
    for module, names in _IMPORTS.items():
        if module == "google.protobuf.descriptor":
            yield ""
        used = [name for name in names.split() if re.search(rf"\b{name}\b", body)]
        line = f"from {module} import {', '.join(used)}"
        if used and len(line) <= LINE_LENGTH:
            yield line
        elif used:
            yield from _call(f"from {module} import (", used, ")")


def _constructor(fields: list[FieldStub]) -> list[str]:
    arguments = [f"{f.name}: {f.init_type} | None = ..." for f in fields if not f.is_keyword]
    if not arguments:
        return ["def __init__(self) -> None: ..."]
    return _call("def __init__(", ["self", "*", *arguments], ") -> None: ...")


def _presence(message: DescriptorProto, fields: list[FieldStub]) -> Iterator[str]:
    if not fields:
        return
    oneofs = [(oneof.name, _members(message, i)) for i, oneof in enumerate(message.oneof_decl)]
    oneof_names = [name for name, _ in oneofs]
    present = [field.name for field in fields if field.has_presence] + oneof_names
    argument = _literal(present) if present else "Never"
    yield from _call("def HasField(", ["self", f"field_name: {argument}"], ") -> bool: ...")
    cleared = _literal([*(field.name for field in fields), *oneof_names])
    yield from _call("def ClearField(", ["self", f"field_name: {cleared}"], ") -> None: ...")
    for name, members in oneofs:
        if len(oneofs) > 1:
            yield "@overload"
        arguments = ["self", f"oneof_group: {_literal([name])}"]
        yield from _call("def WhichOneof(", arguments, f") -> {_literal(members)} | None: ...")


def _members(message: DescriptorProto, oneof: int) -> list[str]:
    return [f.name for f in message.field if f.HasField("oneof_index") and f.oneof_index == oneof]


def _literal(names: Iterable[str]) -> str:
    return f"Literal[{', '.join(repr(name) for name in names)}]".replace("'", '"')


def _call(start: str, arguments: list[str], end: str) -> list[str]:
    line = f"{start}{', '.join(arguments)}{end}"
    # A message may be nested three levels deep.
    if len(line) <= LINE_LENGTH - 12:
        return [line]
    return [start, *(f"    {argument}," for argument in arguments), end]


def _wrapped(line: str) -> list[str]:
    if len(line) <= LINE_LENGTH or "[" not in line:
        return [line.rstrip()]
    margin = " " * (len(line) - len(line.lstrip()))
    start, _, rest = line.partition("[")
    inner, _, end = rest.rpartition("]")
    indent = f"{margin}    "
    lines = textwrap.wrap(inner, LINE_LENGTH, initial_indent=indent, subsequent_indent=indent)
    return [f"{start}[", *lines, f"{margin}]{end}"]


def _indented(lines: Iterable[str]) -> Iterator[str]:
    return (f"    {line}" for line in lines)
