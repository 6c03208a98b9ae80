"""Regenerates what is committed from the .proto files: the descriptor set and the type stubs.

`python protos/build_protos.py` writes, `--check` only compares. It needs grpcio-tools for protoc;
the package itself needs neither grpcio-tools nor grpcio.
"""

import argparse
import difflib
import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorSet

from proto_stubs import stub

ROOT = Path(__file__).resolve().parent
PACKAGE = ROOT / "penstock_protos"

MODULES = {
    "model_config": ("model_config.proto",),
    "inference": ("grpc_service.proto",),
    "health": ("health.proto",),
    "reflection": ("reflection.proto",),
    "rpc_status": (
        "google/protobuf/any.proto",
        "google/protobuf/duration.proto",
        "rpc_status.proto",
    ),
}
"""The files that each module of the package shows."""


def compile_protos() -> FileDescriptorSet:
    """Every .proto file here and what it imports, dependencies first, with its comments."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "descriptors.binpb")
        command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={ROOT}"]
        command += ["--include_imports", "--include_source_info"]
        command += [f"--descriptor_set_out={output}"]
        command += sorted(path.name for path in ROOT.glob("*.proto"))
        subprocess.run(command, check=True, cwd=ROOT)
        return FileDescriptorSet.FromString(output.read_bytes())


def strip(descriptors: FileDescriptorSet) -> bytes:
    """Serialises only what messages are built from, so that versions of protoc agree on it."""
    stripped = FileDescriptorSet.FromString(descriptors.SerializeToString())
    for file in stripped.file:
        file.ClearField("source_code_info")
        # In our files there are none; in Google's they are for other languages.
        file.ClearField("options")
        for message in file.message_type:
            _strip_json_names(message)
    return stripped.SerializeToString(deterministic=True)


def _strip_json_names(message: DescriptorProto) -> None:
    for field in message.field:
        field.ClearField("json_name")
    for nested in message.nested_type:
        _strip_json_names(nested)


def generate() -> dict[Path, bytes]:
    """Path and content of every generated file."""
    descriptors = compile_protos()
    generated = {PACKAGE / "descriptors.binpb": strip(descriptors)}
    for module, files in MODULES.items():
        text = stub(descriptors, MODULES, files)
        generated[PACKAGE / f"{module}.pyi"] = text.encode()
    return generated


def difference(path: Path, expected: bytes) -> str:
    """How the file on disk differs from `expected`; empty if it does not."""
    actual = path.read_bytes() if path.exists() else b""
    if actual == expected:
        return ""
    name = str(path.relative_to(ROOT.parent))
    if path.suffix == ".binpb":
        return f"{name}: {len(actual)} bytes committed, {len(expected)} bytes generated, not equal"
    lines = difflib.unified_diff(
        actual.decode().splitlines(),
        expected.decode().splitlines(),
        f"{name} (committed)",
        f"{name} (generated)",
        lineterm="",
    )
    return "\n".join(lines)


def check(generated: dict[Path, bytes]) -> int:
    """Prints every difference; 1 if there was one."""
    differences = [text for path, data in generated.items() if (text := difference(path, data))]
    for text in differences:
        print(text)
    if differences:
        print(f"{len(differences)} stale file(s): run python protos/build_protos.py")
    return 1 if differences else 0


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if stale")
    options = parser.parse_args(arguments)
    generated = generate()
    if options.check:
        return check(generated)
    for path, data in generated.items():
        path.write_bytes(data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
