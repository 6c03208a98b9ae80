"""penstock: a KServe v2 gRPC inference server, its client, and what a Python model is written with.

    from penstock import FP32, Client, model

Each name is loaded when it is first asked for, so that `import penstock` costs next to nothing.
With PENSTOCK_EAGER_IMPORT set all are loaded at once, as a server that forks may want.
"""

import os
from importlib import import_module

from penstock.version import __version__ as __version__

if os.environ.get("PENSTOCK_EAGER_IMPORT"):
    # Static tools read the types of the public names here.
    from penstock.client.aio import AsyncClient as AsyncClient
    from penstock.client.channel import TLS as TLS
    from penstock.client.errors import InferenceError as InferenceError
    from penstock.client.result import InferResult as InferResult
    from penstock.client.retry import RetryPolicy as RetryPolicy
    from penstock.client.sync import Client as Client
    from penstock_runtime.datatype import DataType as DataType
    from penstock_runtime.memory.places import Place as Place
    from penstock_runtime.model_api import BF16 as BF16
    from penstock_runtime.model_api import BOOL as BOOL
    from penstock_runtime.model_api import BYTES as BYTES
    from penstock_runtime.model_api import FP16 as FP16
    from penstock_runtime.model_api import FP32 as FP32
    from penstock_runtime.model_api import FP64 as FP64
    from penstock_runtime.model_api import INT8 as INT8
    from penstock_runtime.model_api import INT16 as INT16
    from penstock_runtime.model_api import INT32 as INT32
    from penstock_runtime.model_api import INT64 as INT64
    from penstock_runtime.model_api import UINT8 as UINT8
    from penstock_runtime.model_api import UINT16 as UINT16
    from penstock_runtime.model_api import UINT32 as UINT32
    from penstock_runtime.model_api import UINT64 as UINT64
    from penstock_runtime.model_api import Context as Context
    from penstock_runtime.model_api import ModelArgs as ModelArgs
    from penstock_runtime.model_api import model as model
    from penstock_runtime.tensor import Tensor as Tensor

_NAMES = {
    "penstock.client.aio": ("AsyncClient",),
    "penstock.client.channel": ("TLS",),
    "penstock.client.errors": ("InferenceError",),
    "penstock.client.result": ("InferResult",),
    "penstock.client.retry": ("RetryPolicy",),
    "penstock.client.sync": ("Client",),
    "penstock_runtime.datatype": ("DataType",),
    "penstock_runtime.memory.places": ("Place",),
    "penstock_runtime.model_api": (
        *("BF16", "BOOL", "BYTES", "FP16", "FP32", "FP64", "INT8", "INT16", "INT32", "INT64"),
        *("UINT8", "UINT16", "UINT32", "UINT64", "Context", "ModelArgs", "model"),
    ),
    "penstock_runtime.tensor": ("Tensor",),
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'penstock' has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(home), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
