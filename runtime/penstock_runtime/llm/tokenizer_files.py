"""What the files of a Hugging Face directory say of its tokenizer, beside tokenizer.json: special
tokens, the ends of a sequence, chat templates. It reads files and knows no library.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from penstock_runtime.errors import InvalidArgument

MAX_FILE_BYTES = 256 << 20
SPECIAL_NAMES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """`settings` is tokenizer_config.json, `special_tokens` maps names as "eos_token" to texts,
    `eos_ids` are those of generation_config.json, else config.json, and `templates` are chat
    templates by name, the usual one of which is "default".
    """

    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    special_tokens: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    eos_ids: tuple[int, ...] = ()
    templates: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


def read_files(directory: Path) -> TokenizerFiles:
    """What the files there say; each of them may be missing, none may be broken."""
    settings = read_json(directory / "tokenizer_config.json")
    special = {**read_json(directory / "special_tokens_map.json"), **settings}
    return TokenizerFiles(
        settings=settings,
        special_tokens=_special_tokens(special),
        eos_ids=_eos_ids(directory),
        templates=_templates(directory, settings),
    )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; an empty one where there is no file."""
    text = read_text(path)
    if text is None:
        return {}
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{path.name} is no JSON: {_line(error)}") from error
    if not isinstance(document, dict):
        raise InvalidArgument(f"{path.name} holds a {type(document).__name__}, expected an object")
    return document


def read_text(path: Path) -> str | None:
    """The text in a file; None where there is none."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InvalidArgument(f"{path.name} has more than {MAX_FILE_BYTES} bytes")
        return path.read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{path.name} is not UTF-8 at byte {error.start}") from error
    except OSError as error:
        raise InvalidArgument(f"{path.name} cannot be read: {error.strerror}") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _special_tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    found = {name: _content(settings.get(name)) for name in SPECIAL_NAMES}
    # Models that have more of them, such as an image's, name them there for their templates.
    extra = settings.get("extra_special_tokens") or settings.get("model_specific_special_tokens")
    if isinstance(extra, dict):
        found |= {str(name): _content(value) for name, value in extra.items()}
    return {name: text for name, text in found.items() if text is not None}


def _content(token: object) -> str | None:
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _eos_ids(directory: Path) -> tuple[int, ...]:
    config = read_json(directory / "config.json")
    nested = config.get("text_config")
    documents = (
        read_json(directory / "generation_config.json"),
        config,
        nested if isinstance(nested, dict) else {},
    )
    for document in documents:
        value = document.get("eos_token_id")
        ids = value if isinstance(value, list) else [value]
        found = [one for one in ids if type(one) is int and one >= 0]
        if found:
            return tuple(dict.fromkeys(found))
    return ()


def _templates(directory: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """As transformers: files go before what tokenizer_config.json holds."""
    found: dict[str, str] = {}
    value = settings.get("chat_template")
    if isinstance(value, str):
        found["default"] = value
    elif isinstance(value, list):
        found |= {
            str(one.get("name")): str(one.get("template")) for one in value if isinstance(one, dict)
        }
    old = read_json(directory / "chat_template.json").get("chat_template")
    if isinstance(old, str):
        found["default"] = old
    named = directory / "additional_chat_templates"
    paths = {path.stem: path for path in sorted(named.glob("*.jinja"))}
    paths["default"] = directory / "chat_template.jinja"
    texts = {name: read_text(path) for name, path in paths.items()}
    return found | {name: text for name, text in texts.items() if text is not None}
