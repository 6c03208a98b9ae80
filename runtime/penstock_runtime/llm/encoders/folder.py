"""Which files a Hugging Face folder consists of, and what its JSON files say.

Names decide what a folder is; nothing but JSON is read here, never a weight and never a pickle.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from penstock_runtime.backends.base import ModelSource
from penstock_runtime.backends.files import confined, has_file, listing
from penstock_runtime.errors import InvalidArgument

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
# Pickles, which can run code when they are read.
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
MAX_JSON_BYTES = 16 << 20
MAX_SHARDS = 4096
_SAVE = 'AutoTokenizer.from_pretrained("FOLDER").save_pretrained("FOLDER")'


@dataclass(frozen=True, slots=True)
class FolderFiles:
    """The tokenizer and the files with weights of a folder, all of them inside of it."""

    tokenizer: Path
    weights: tuple[Path, ...]

    @property
    def size(self) -> int:
        """Bytes of all weights."""
        return sum(path.stat().st_size for path in self.weights)


def recognise(source: ModelSource) -> bool:
    """Whether the names in the version directory are those of a Hugging Face model."""
    named = source.config.default_model_filename
    if named and not named.endswith(".safetensors"):
        return False
    beside = (WEIGHTS, INDEX, TOKENIZER, *PICKLES)
    return has_file(source, CONFIG) and any(has_file(source, name) for name in beside)


def find_files(source: ModelSource) -> FolderFiles:
    """Tokenizer and weights; InvalidArgument says which file is missing and how to make it."""
    return FolderFiles(_tokenizer(source), _weights(source))


def config_of(source: ModelSource) -> Mapping[str, Any]:
    """What the folder's config.json says."""
    return read_json(source, CONFIG)


def read_json(source: ModelSource, name: str) -> Mapping[str, Any]:
    """The object in a JSON file of the folder; InvalidArgument if it is missing or no object."""
    found = _parsed(source, confined(source, name))
    if not isinstance(found, dict):
        raise broken(source, name, "holds no JSON object")
    return found


def optional_json(source: ModelSource, name: str) -> Mapping[str, Any]:
    """The same, or nothing where the folder has no such file."""
    return read_json(source, name) if has_file(source, name) else {}


def optional_list(source: ModelSource, name: str) -> list[Mapping[str, Any]]:
    """The objects of the list in a JSON file; none where the folder has no such file."""
    if not has_file(source, name):
        return []
    found = _parsed(source, confined(source, name))
    if isinstance(found, list) and all(isinstance(item, dict) for item in found):
        return found
    raise broken(source, name, "holds no list of JSON objects")


def read_json_at(source: ModelSource, location: str) -> Mapping[str, Any]:
    """The object in a JSON file at a path that a file of the model names."""
    found = _parsed(source, inside(source, location))
    if not isinstance(found, dict):
        raise broken(source, location[:64], "holds no JSON object")
    return found


def inside(source: ModelSource, location: str) -> Path:
    """A file below the version directory; refused when it is not really there.

    The location comes out of a file of the model, and must not lead anywhere else.
    """
    parts = PurePosixPath(location).parts
    shown = repr(location[:64])
    if not parts or location[0] == "/" or ".." in parts or "\\" in location or "\0" in location:
        raise InvalidArgument(f"model '{source.config.name}': {shown} leads out of its folder")
    path = source.directory / location
    if not path.is_file():
        raise InvalidArgument(f"model '{source.config.name}': {shown} is named but is not there")
    homes = (source.root.resolve(), source.directory.resolve())
    if not any(path.resolve().is_relative_to(home) for home in homes):
        raise InvalidArgument(f"model '{source.config.name}': {shown} is a link out of its folder")
    return path


def broken(source: ModelSource, name: str, what: str) -> InvalidArgument:
    """What is wrong with a file of the folder, by the file's name."""
    return InvalidArgument(f"model '{source.config.name}': {name} {what}")


def _parsed(source: ModelSource, path: Path) -> Any:
    with path.open("rb") as file:
        text = file.read(MAX_JSON_BYTES + 1)
    if len(text) > MAX_JSON_BYTES:
        raise broken(source, path.name, f"is larger than {MAX_JSON_BYTES} bytes")
    try:
        return json.loads(text)
    # Bytes that are no text are a ValueError as well.
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", "not UTF-8 text")
        raise broken(source, path.name, f"is no JSON: {reason}") from error


def _tokenizer(source: ModelSource) -> Path:
    if has_file(source, TOKENIZER):
        return confined(source, TOKENIZER)
    raise broken(
        source,
        TOKENIZER,
        f"is missing, there is only {listing(source.directory)}; write it with transformers:"
        f" {_SAVE}",
    )


def _weights(source: ModelSource) -> tuple[Path, ...]:
    named = source.config.default_model_filename
    if named or has_file(source, WEIGHTS):
        return (confined(source, named or WEIGHTS),)
    if has_file(source, INDEX):
        return _shards(source)
    pickles = [name for name in PICKLES if has_file(source, name)]
    if pickles:
        raise broken(
            source,
            pickles[0],
            f"is a pickle, which can run code when it is read; convert it to {WEIGHTS}, for"
            ' instance with AutoModel.from_pretrained("FOLDER").save_pretrained("FOLDER") of'
            " transformers",
        )
    raise broken(source, WEIGHTS, f"is missing, there is only {listing(source.directory)}")


def _shards(source: ModelSource) -> tuple[Path, ...]:
    weight_map = read_json(source, INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise broken(source, INDEX, "has no weight_map")
    names = sorted({str(name) for name in weight_map.values()})
    if len(names) > MAX_SHARDS:
        raise broken(source, INDEX, f"names {len(names)} files, expected at most {MAX_SHARDS}")
    for name in names:
        if not name.endswith(".safetensors"):
            raise broken(source, INDEX, f"names {name[:64]!r}, expected files of safetensors only")
    return tuple(confined(source, name) for name in names)
