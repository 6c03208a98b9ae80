"""One model at a time: while transformers makes one, it changes global state of its own classes and
of torch, and would leave it changed where two are made at once. Its modules are imported one at a
time too: whoever comes while another thread imports it finds half of it.
"""

import importlib
from threading import RLock
from types import ModuleType

LOADING = RLock()


def import_alone(name: str) -> ModuleType:
    """The module of this name; whatever imports transformers is imported by this."""
    with LOADING:
        return importlib.import_module(name)
