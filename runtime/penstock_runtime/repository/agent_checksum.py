"""The agent that refuses a model whose files are not what the configuration says they are."""

import hashlib
import hmac
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, Protocol

from penstock_runtime.errors import InvalidArgument

# MD5 is what Triton's agent knows: it finds damage, not malice.
ALGORITHMS: Mapping[str, Callable[[], Any]] = MappingProxyType(
    {
        "MD5": lambda: hashlib.md5(usedforsecurity=False),
        "SHA256": hashlib.sha256,
        "SHA512": hashlib.sha512,
    }
)
_PIECE = 1 << 20


class Asked(Protocol):
    """What the agent has to know of a model."""

    @property
    def model(self) -> str:
        """Its name."""

    @property
    def root(self) -> Path:
        """Its folder."""

    @property
    def parameters(self) -> Mapping[str, str]:
        """The digests, by `ALGORITHM:path` below the folder."""


class ChecksumAgent:
    """Compares digests of files: parameters `MD5:1/model.onnx` to hexadecimal digits."""

    def load(self, request: Asked) -> None:
        """InvalidArgument for the first file that is not there or not the one that was meant."""
        if not request.parameters:
            raise InvalidArgument(
                f"the checksum agent of model '{request.model}' has no parameters, expected "
                "ALGORITHM:path with the digest of the file"
            )
        for key, expected in request.parameters.items():
            algorithm, _, path = key.partition(":")
            self._check(request, algorithm, path, expected)

    def unloaded(self, request: Asked) -> None:
        """There is nothing to let go."""

    def _check(self, request: Asked, algorithm: str, path: str, expected: str) -> None:
        make = ALGORITHMS.get(algorithm.upper())
        if make is None:
            raise InvalidArgument(
                f"checksum of model '{request.model}': '{algorithm[:32]}' is no algorithm, "
                f"expected one of {', '.join(ALGORITHMS)}"
            )
        found = _digest(_inside(request, path), make)
        if found is None:
            raise InvalidArgument(f"checksum of model '{request.model}': '{path[:128]}' is missing")
        if not hmac.compare_digest(found, expected.strip().lower().encode()):
            raise InvalidArgument(
                f"checksum of model '{request.model}': {algorithm.upper()} of '{path[:128]}' is "
                f"{found.decode()}, expected {expected.strip()[:128]}",
                reason="CHECKSUM_MISMATCH",
            )


def _inside(request: Asked, path: str) -> Path:
    """The file, which must be below the model's folder."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or "\x00" in path:
        raise InvalidArgument(
            f"checksum of model '{request.model}': '{path[:128]}' is no path below its folder"
        )
    return request.root.joinpath(*parts)


def _digest(path: Path, make: Callable[[], Any]) -> bytes | None:
    digest = make()
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
    except OSError:
        return None
    text: str = digest.hexdigest()
    return text.encode()
