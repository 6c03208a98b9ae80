"""What `penstock lint` says of the files of a model that has some of its own to be read: ONNX
models, and models of MLServer and TorchServe. Nothing is loaded, unpacked or executed.
"""

from collections.abc import Iterator
from typing import NamedTuple

from penstock_runtime.backends.base import ModelSource
from penstock_runtime.backends.mlserver.backend import MLServerBackend
from penstock_runtime.backends.mlserver.classes import PREFIX, check_pickle_allowed
from penstock_runtime.backends.mlserver.completion import complete_config
from penstock_runtime.backends.mlserver.settings import SETTINGS_FILE, find_settings
from penstock_runtime.backends.onnx import files as onnx_files
from penstock_runtime.backends.onnx.options import read_options
from penstock_runtime.backends.torchserve import files as torchserve_files
from penstock_runtime.backends.torchserve.settings import MANIFEST
from penstock_runtime.errors import InvalidArgument


class FileProblem(NamedTuple):
    """One thing that is wrong with a file: which, how badly, what, and what would mend it."""

    file: str
    severity: str
    text: str
    fix: str = ""


def file_problems(source: ModelSource) -> Iterator[FileProblem]:
    """What is wrong with the files of one version."""
    if MLServerBackend().recognises(source):
        found, file = _of_mlserver(source), SETTINGS_FILE
    elif torchserve_files.recognises(source):
        found, file = _of_torchserve(source), MANIFEST
    elif onnx_files.recognises(source):
        file = source.config.default_model_filename or onnx_files.DEFAULT_FILENAME
        found = _of_onnx(source)
    else:
        return
    try:
        yield from found
    except InvalidArgument as error:
        yield FileProblem(file, "error", error.message)


def _of_mlserver(source: ModelSource) -> Iterator[FileProblem]:
    settings = find_settings(source)
    head = settings.implementation.partition(".")[0]
    own = (source.directory / f"{head}.py", source.directory / head / "__init__.py")
    if not head.startswith(PREFIX) and not any(path.is_file() for path in own):
        text = f"implementation {settings.implementation!r} has no file {head}.py here"
        yield FileProblem(SETTINGS_FILE, "error", text, "put it beside the settings")
    complete_config(source.config, settings, MLServerBackend.name, streams=False)
    try:
        check_pickle_allowed(source, settings)
    except InvalidArgument as error:
        yield FileProblem(SETTINGS_FILE, "warning", error.message)


def _of_torchserve(source: ModelSource) -> Iterator[FileProblem]:
    settings = torchserve_files.find_settings(source)
    file = f"{settings.handler}.py"
    if settings.is_file and not torchserve_files.has_member(source, file):
        text = f"the handler {file} is not there"
        yield FileProblem(MANIFEST, "error", text, "archive it with the model")
    if settings.manifest["model"].get("requirementsFile"):
        text = "requirementsFile: nothing is installed for a model"
        fix = "install what it needs where the server runs"
        yield FileProblem(MANIFEST, "warning", text, fix)


def _of_onnx(source: ModelSource) -> Iterator[FileProblem]:
    onnx_files.find_files(source)
    read_options(source.config)
    yield from ()
