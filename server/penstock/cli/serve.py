"""`penstock serve`: the server."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from penstock.cli.command import CommandError
from penstock.cli.served_file import repository_of, split_source
from penstock.config import ServerOptions
from penstock.config_sources import add_flags, from_arguments

DESCRIPTION = """Serve models over gRPC by the KServe v2 protocol. What is served is a repository
(a folder of models, as Triton has it), one model's folder, or a Python file with a model in it.
Flags bear Triton's names; each is also an environment variable, and a flag wins over it. SIGTERM
drains the server: what was accepted is answered before it ends."""
EXAMPLES = (
    "penstock serve models/",
    "penstock serve model.py:Model --grpc-port 9000",
    "penstock serve models/ --model-control-mode explicit --load-model digits",
    "PENSTOCK_LOG_FORMAT=json penstock serve --model-repository models/",
    "penstock serve models/ --processes 4",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command: those of the server, and what to serve."""
    parser.usage = "penstock serve [DIR|FILE.py[:NAME]] [OPTIONS]"
    parser.add_argument(
        "source",
        nargs="?",
        default="",
        metavar="DIR|FILE.py[:NAME]",
        help="a repository, one model's folder, or a file with a model",
    )
    add_flags(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop; 0 when that was in order."""
    options = from_arguments(args, os.environ)
    with with_source(options, args.source) as complete:
        if complete.processes > 1:
            from penstock.supervisor import run as supervise

            return supervise(complete)
        # Only now: a mistake in the arguments should not wait for the whole server to be imported.
        from penstock.app import run as serve
        from penstock.cli.load_bar import load_bar

        return serve(complete, load_bar())


@contextmanager
def with_source(options: ServerOptions, source: str) -> Iterator[ServerOptions]:
    """The options with what the positional argument says, for the time of the block."""
    if source.startswith("-"):
        # argparse takes what holds a blank for no option, however it begins. Its value may be a
        # secret.
        raise CommandError(f"unknown argument {source.partition('=')[0]!r}")
    file = split_source(source)
    if file is not None:
        with repository_of(*file, options.model_name) as folder:
            yield replace(options, model_repository=(*options.model_repository, str(folder)))
        return
    if source:
        options = with_directory(options, Path(source))
    if not options.model_repository:
        raise CommandError("expected what to serve, for instance: penstock serve models/")
    yield options


def with_directory(options: ServerOptions, directory: Path) -> ServerOptions:
    """The options with one more repository; a folder that is one model gives it its name."""
    from penstock_runtime.repository.index import is_bare

    if not directory.is_dir():
        raise CommandError(f"{directory} is not there, expected a model repository or a .py file")
    name = options.model_name
    if not name and is_bare(directory):
        name = directory.resolve().name
    repositories = (*options.model_repository, str(directory))
    return replace(options, model_repository=repositories, model_name=name)
