"""What makes two requests one: everything that a model can see of a request, but for its id and its
deadline.

The hash is keyed with a secret of the process, so that nobody can look for two requests of one hash
beforehand; at 256 bits nobody finds them here either, and equal hashes are taken for equal
requests.
"""

import hashlib
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from penstock_runtime.datatype import AnyArray
from penstock_runtime.request import InferRequest
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.tensor import pack_bytes, to_host

DIGEST_BYTES = 32
# Hashing takes about a millisecond per MB, on the loop: larger requests are executed.
HASHED_BYTES = 4 << 20
SMALL = 4096

_SECRET = os.urandom(32)
_NOTHING_SAID = repr(([], [], [])).encode()


def request_key(pending: Pending, prefix: bytes) -> bytes | None:
    """The hash of a request to the model that `prefix` stands for; None if it must be executed: a
    part of a sequence, outputs with parameters of their own, inputs of more than `HASHED_BYTES`.
    """
    request = pending.request
    if request.correlation_id or request.sequence_start or request.sequence_end:
        return None
    if any(output.parameters for output in request.outputs):
        return None
    inputs = _inputs(pending.arrays)
    if inputs is None:
        return None
    found = hashlib.blake2b(prefix, digest_size=DIGEST_BYTES, key=_SECRET)
    found.update(_said(request))
    for head, data in inputs:
        found.update(head)
        found.update(data)
    return found.digest()


def key_prefix(model: str, version: int, owner: int) -> bytes:
    """What the keys of one load of one version begin with."""
    return repr((model, version, owner)).encode()


def _said(request: InferRequest) -> bytes:
    """The request beside its inputs; a tuple's `repr` says where each part ends, and its type."""
    if not (request.outputs or request.parameters or request.headers):
        return _NOTHING_SAID
    said = (
        [output.name for output in request.outputs],
        sorted(request.parameters.items()),
        sorted(request.headers.items()),
    )
    return repr(said).encode()


def _inputs(arrays: Mapping[str, Any]) -> list[tuple[bytes, bytes | memoryview]] | None:
    """The inputs by name: what says how long each is and what it means, and its bytes. None if they
    are too many.
    """
    parts: list[tuple[bytes, bytes | memoryview]] = []
    left = HASHED_BYTES
    for name in sorted(arrays):
        array = to_host(arrays[name])
        # Before anything is copied; strings are at least as long as the pointers to them.
        if array.nbytes > left:
            return None
        data = _data(array)
        left -= len(data)
        head = repr((name, array.dtype.str, array.shape, len(data))).encode()
        parts.append((head, data))
    return parts if left >= 0 else None


def _data(array: AnyArray) -> bytes | memoryview:
    if array.dtype.hasobject:
        return pack_bytes(array)
    # A small array is copied sooner than viewed.
    if array.nbytes < SMALL:
        return array.tobytes()
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
