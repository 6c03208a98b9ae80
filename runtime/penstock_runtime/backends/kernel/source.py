"""A model's own CUDA source: read, with its headers in it, and compiled; what a compiler says
against it is told by line, without paths.
"""

import itertools
import re
from dataclasses import replace
from pathlib import Path

from penstock_kernels import nvrtc
from penstock_kernels.declare import Kernel
from penstock_kernels.source import FOLDER, flatten, headers
from penstock_runtime.backends.base import ModelSource
from penstock_runtime.backends.failure import summary
from penstock_runtime.backends.files import confined
from penstock_runtime.errors import InvalidArgument

FILENAME = "model.cu"
# What a CPU compiles for, to see whether it compiles: the oldest architecture that is served.
CHECKED = "80"
_MOST_BYTES = 4 << 20
_loads = itertools.count(1)
_SHOWN = 3
_ERROR = re.compile(
    r"(?:([\w.-]+)\((\d+)\)|At end of source): (?:catastrophic |fatal )?error(?: #[\w-]+)?: (.*)$",
    re.MULTILINE,
)
# What NVRTC says, among more, of a function that is not there.
_NO_FUNCTION = "Error in parsing name expression"


def read_source(source: ModelSource) -> str:
    """The text of model.cu with our header in it. InvalidArgument for a file that is none."""
    name = source.config.default_model_filename or FILENAME
    path = confined(source, name)
    if path.stat().st_size > _MOST_BYTES:
        raise InvalidArgument(f"model '{source.config.name}': {name} is over {_MOST_BYTES} bytes")
    try:
        _check_headers(source, path)
        return flatten(path)
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"model '{source.config.name}': {name} is no text") from error


def _check_headers(source: ModelSource, path: Path) -> None:
    for name in headers(path.read_text()):
        if not (FOLDER / name).is_file():
            raise InvalidArgument(
                f"model '{source.config.name}': {path.name} includes \"{name}\", expected"
                ' "common.cuh" or nothing in quotes'
            )


def compiled_or_refused(source: ModelSource, kernel: Kernel, arch: str = CHECKED) -> bool:
    """Compile it, where there is a compiler; whether there is one. InvalidArgument with the lines
    that are wrong.
    """
    if not nvrtc.available():
        return False
    try:
        nvrtc.compile_cubin(kernel.text, FILENAME, kernel.instances, arch)
    except nvrtc.NvrtcError as refused:
        raise refusal(source.config.name, kernel, str(refused)) from None
    return True


def refusal(model: str, kernel: Kernel, log: str) -> InvalidArgument:
    """What a compiler's log says, for whoever wrote the source."""
    function = kernel.instances[0]
    if _NO_FUNCTION in log:
        return InvalidArgument(
            f"model '{model}': {FILENAME} has no __global__ function {function}, which its"
            " configuration names"
        )
    found = [
        f"{_place(file, line)}: {summary(ValueError(text))}"
        for file, line, text in _ERROR.findall(log)
    ]
    said = "; ".join(found[:_SHOWN]) or summary(ValueError(log))
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return InvalidArgument(f"model '{model}': {FILENAME} does not compile: {said}{more}")


def _place(file: str, line: str) -> str:
    if not file:
        return "at its end"
    return f"line {line}" if file == FILENAME else f"{file} line {line}"


def named(kernel: Kernel) -> Kernel:
    """The kernel under a name that only this load has: what a GPU has loaded is found by it, and
    unloaded while another load of the same source goes on. The cache of compiled code is by content
    and serves both.
    """
    return replace(kernel, source=f"{FILENAME}#{next(_loads)}")
