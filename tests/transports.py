"""The transports that a server can be told to use: for tests of what holds on all of them."""

import os
from dataclasses import fields

from penstock.config import ServerOptions
from penstock.options.flag import FlagInfo


def _choices() -> tuple[str, ...]:
    for option in fields(ServerOptions):
        if option.name == "transport":
            info: FlagInfo = option.metadata["flag"]
            return info.choices
    raise LookupError("ServerOptions has no option `transport`")


VARIABLE = "PENSTOCK_TRANSPORT"


def chosen() -> str:
    """The transport of this run's servers."""
    return os.environ.get(VARIABLE, ServerOptions().transport)


TRANSPORTS: tuple[str, ...] = _choices()
