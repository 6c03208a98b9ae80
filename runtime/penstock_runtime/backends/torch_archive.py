"""What an archive of torch.export may contain before torch is allowed to load it.

`torch.export.load` unpickles what is marked as pickled, opens shared libraries, resolves operators
by attribute look-up from the torch module, and evaluates expressions that it finds as text. Here
an archive is held to what `torch.export.save` writes for plain tensors: everything else is refused
unread. It remains a program, so it should come from where one trusts programs.
"""

import ast
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from penstock_runtime.errors import InvalidArgument

_ARITHMETIC = (
    "abs|add|and_|eq|floordiv|ge|getitem|gt|inv|invert|is_|is_not|le|lshift|lt|matmul|mod|mul|ne"
    "|neg|not_|or_|pos|pow|rshift|sub|truediv|truth|xor"
)
# torch.ops has members that are no operators (load_library), and every object has dunders.
_OPERATOR = re.compile(
    r"torch\.ops\.(?!load_library|import_module|loaded_libraries|_dir|__)\w+"
    r"\.(?:(?!__)\w+|__i?(?:and|or|xor|lshift|rshift)__)(?:\.(?!__)\w+)?"
    rf"|_operator\.(?:{_ARITHMETIC})|math\.[a-z]\w*|torch\._?sym_\w+"
)
_FORBIDDEN_OPERATORS = ("torch.ops.aten.from_file", "torch.ops.aten.save")
# Names become identifiers of generated code: nothing in them may end one and begin another.
_NAME = re.compile(r"[\w.:-]*")
_FREE_TEXT = ("as_string", "as_strings", "out_spec", "torch_version")
_EXPRESSION_NODES = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Call, ast.keyword,
    ast.Name, ast.Constant, ast.Attribute, ast.Subscript, ast.Load, ast.operator, ast.unaryop,
    ast.boolop, ast.cmpop, ast.Tuple, ast.List, ast.IfExp,
)  # fmt: skip
_FUNCTION = re.compile(r"[A-Z][A-Za-z]*|floor|ceiling|max|min|abs|int|float|bool|isinstance|len")
_METHODS = ("size", "stride", "storage_offset", "numel", "dim", "isnan", "inf")


def check_archive(path: Path, reader: Any) -> None:
    """Refuse an archive that holds anything but tensors and a graph of known operators.

    `reader` gives the archive's members as the loader will see them: `get_file_names()` and
    `read_bytes(name)`. Raises InvalidArgument that says what was found.
    """
    names = reader.get_file_names()
    for name in names:
        if name.startswith("data/aotinductor/"):
            raise _refused(path, "holds compiled native code (AOTInductor)")
        if name.endswith((".pt", ".pkl")) and not name.startswith("data/sample_inputs/"):
            raise _refused(path, f"holds a pickle ({name[:64]})")
    for name in names:
        if name.endswith("_config.json") and name.startswith(("data/weights/", "data/constants/")):
            _check_payloads(path, _json(path, reader.read_bytes(name)))
        elif name.startswith("models/"):
            check_program(path, _json(path, reader.read_bytes(name)))


def check_samples(path: Path, reader: Any, load: Any) -> None:
    """Refuse sample inputs that are more than tensors; `load` reads a stream of weights only.

    The loader would fall back to unpickling whatever it cannot read that way.
    """
    for name in reader.get_file_names():
        if name.startswith("data/sample_inputs/"):
            data = reader.read_bytes(name)
            try:
                if data:
                    load(io.BytesIO(data))
            except Exception as error:
                raise _refused(path, "holds sample inputs that are not plain tensors") from error


def check_program(path: Path, document: object) -> None:
    """Refuse a graph that calls anything but operators, or holds text that is code."""
    for key, value in _walk(document):
        if key in ("target", "as_operator"):
            if isinstance(value, str) and value and not _is_operator(value):
                raise _refused(path, f"calls {value[:64]!r}, which is no operator")
        elif key in ("expr_str", "guards_code"):
            _check_expression(path, str(value))
        elif key in ("in_spec", "context"):
            check_program(path, _json(path, str(value).encode()) if value else None)
        elif isinstance(value, str) and key not in _FREE_TEXT and not _NAME.fullmatch(value):
            raise _refused(path, f"has {value[:64]!r} where a name is expected")


def _walk(node: object, key: str = "") -> Iterator[tuple[str, object]]:
    """Every key, and every leaf with the key that it stands under; metadata is left out."""
    if isinstance(node, dict):
        for name, child in node.items():
            if name == "metadata":
                continue
            yield ("", name)
            yield from _walk(child, name)
    elif isinstance(node, list):
        for child in node:
            yield from _walk(child, key)
    else:
        yield key, node


def _is_operator(target: str) -> bool:
    # Inputs and outputs of a signature are targets too: there, a target is a name.
    if not target.startswith(("torch", "_operator", "math", "#")):
        return _NAME.fullmatch(target) is not None
    return _OPERATOR.fullmatch(target) is not None and not target.startswith(_FORBIDDEN_OPERATORS)


def _check_expression(path: Path, text: str) -> None:
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise _refused(path, f"has {text[:64]!r} where an expression is expected") from error
    if not all(_is_harmless(node) for node in ast.walk(tree)):
        raise _refused(path, f"has the expression {text[:64]!r}, which is more than arithmetic")


def _is_harmless(node: ast.AST) -> bool:
    if isinstance(node, ast.Call):
        called = node.func
        if isinstance(called, ast.Attribute):
            return called.attr in _METHODS
        return isinstance(called, ast.Name) and _FUNCTION.fullmatch(called.id) is not None
    if isinstance(node, ast.Attribute):
        return node.attr in _METHODS
    if isinstance(node, ast.Name):
        return not node.id.startswith("__")
    if isinstance(node, ast.Constant):
        return (
            not isinstance(node.value, str | bytes)
            or re.fullmatch(r"\w+", str(node.value)) is not None
        )
    return isinstance(node, _EXPRESSION_NODES)


def _check_payloads(path: Path, document: Mapping[str, Any]) -> None:
    for name, entry in dict(document.get("config", {})).items():
        stored = str(entry.get("path_name", ""))
        if entry.get("use_pickle") or not stored.startswith(("weight_", "tensor_")):
            raise _refused(path, f"holds {str(name)[:64]!r} as a pickle")


def _json(path: Path, data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _refused(path, f"has a member that is no JSON ({error})") from error


def _refused(path: Path, what: str) -> InvalidArgument:
    return InvalidArgument(f"{path.name} {what}; only graphs over plain tensors are loaded")
