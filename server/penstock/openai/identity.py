"""What every answer begins with: its id, its kind, when it was made and of what."""

import secrets
import time
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from penstock.version import __version__
from penstock_runtime.model import Model


@dataclass(frozen=True, slots=True)
class Identity:
    """Of one answer; `model` is the name by which it was asked for."""

    id: str
    model: str
    fingerprint: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    def head(self, kind: str) -> dict[str, Any]:
        """The first fields of a document."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.fingerprint,
        }


def new_id(prefix: str) -> str:
    """An id that no other has."""
    return prefix + secrets.token_hex(16)


def identify(prefix: str, asked: str, model: Model) -> Identity:
    """An identity for an answer of this model."""
    return Identity(new_id(prefix), asked or model.config.name, fingerprint(model))


def fingerprint(model: Model) -> str:
    """Changes whenever the same seed may give another text: with the server, or another load of the
    model.
    """
    text = f"{__version__} {model.config.name} {model.version} {model.loads}"
    return f"fp_{blake2b(text.encode(), digest_size=5).hexdigest()}"
