"""TorchServe archives written for a test."""

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import torch
from tests.runtime.model_folders import source_of

from penstock_runtime.backends.base import ModelSource
from penstock_runtime.config import ModelConfig

ECHO = """
def handle(data, context):
    if data is None:
        return None
    return [row["body"] for row in data]
"""


def manifest(handler: str = "handler.py", **model: Any) -> str:
    """A manifest as torch-model-archiver writes it."""
    described = {"modelName": "m", "handler": handler, "modelVersion": "1.0", **model}
    return json.dumps({"runtime": "python", "model": described, "archiverVersion": "0.12.0"})


def members(code: str = ECHO, files: Mapping[str, str | bytes] | None = None, **model: Any) -> Any:
    """The members of an archive with this handler."""
    return {
        "MAR-INF/MANIFEST.json": manifest(**model),
        "handler.py": dedent(code),
        **(files or {}),
    }


def archive(content: Mapping[str, str | bytes]) -> bytes:
    """A zip of these members."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as made:
        for name, text in content.items():
            made.writestr(name, text)
    return data.getvalue()


def version(root: Path) -> Path:
    """A new version directory."""
    directory = root / "m" / "1"
    directory.mkdir(parents=True)
    return directory


def mar(root: Path, content: Any, config: ModelConfig | None = None) -> ModelSource:
    """The members as version 1, in an archive (or bytes that should be one)."""
    directory = version(root)
    data = content if isinstance(content, bytes) else archive(content)
    (directory / "model.mar").write_bytes(data)
    return source_of(directory, config)


def unpacked(root: Path, content: Mapping[str, str | bytes]) -> ModelSource:
    """The members as version 1, as files."""
    directory = version(root)
    for name, text in content.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return source_of(directory)


def saved(thing: Any) -> bytes:
    """What torch.save writes."""
    data = io.BytesIO()
    torch.save(thing, data)
    return data.getvalue()
