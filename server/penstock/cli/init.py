"""`penstock init`: writes the configuration of a model that so far needed none."""

import argparse
from dataclasses import replace
from pathlib import Path

from penstock.cli.command import CommandError
from penstock.config_text import parse_config_text, print_config_text
from penstock_runtime.backends.base import ModelSource
from penstock_runtime.backends.registry import default_registry
from penstock_runtime.config import ModelConfig
from penstock_runtime.config_check import check
from penstock_runtime.repository.index import ModelFolder, is_bare, read_folder

DESCRIPTION = """Ask a model what its inputs and outputs are and write them down as config.pbtxt, to
be edited from there. A Python model's file is executed for that, as it would be when it is served.
What an existing configuration says is kept and completed."""
EXAMPLES = (
    "penstock init models/digits",
    "penstock init models/digits --print",
    "penstock init models/resnet   # 1/model.onnx, a model-settings.json or a .mar",
    "penstock init models/digits --force   # complete the config.pbtxt that is there",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("model", type=Path, metavar="MODEL_DIR", help="the model's folder")
    parser.add_argument("--name", default="", help="its name (default: that of the folder)")
    parser.add_argument("--force", action="store_true", help="replace the config.pbtxt there")
    parser.add_argument("--print", action="store_true", help="print it instead of writing it")


def run(args: argparse.Namespace) -> int:
    """Write or print the configuration."""
    root = args.model.resolve()
    if not root.is_dir():
        raise CommandError(f"{args.model} is not there, expected the folder of a model")
    target = root / "config.pbtxt"
    if target.exists() and not (args.force or args.print):
        raise CommandError(f"{target} is there already; --force replaces it, --print shows")
    text = print_config_text(completed(root, args.name or root.name))
    if args.print:
        print(text, end="")
        return 0
    target.write_text(text)
    print(f"{target} is written; penstock lint {args.model} checks what you change")
    return 0


def completed(root: Path, name: str) -> ModelConfig:
    """The configuration of the model in `root`, with everything that the model itself says."""
    folder = read_folder(root.parent, root, name, bare=is_bare(root))
    version = _version(folder)
    source = ModelSource(
        config=_existing(root, name),
        version=version,
        directory=folder.directory(version),
        root=folder.root,
    )
    config = default_registry().find(source).complete(source)
    check(config)
    return config


def _version(folder: ModelFolder) -> int:
    if folder.problem:
        raise CommandError(f"{folder.root}: {folder.problem}")
    if folder.flat:
        return 1
    if not folder.versions:
        raise CommandError(
            f"{folder.root} has no version folder, expected the model's files in {folder.root}/1"
        )
    return folder.versions[-1]


def _existing(root: Path, name: str) -> ModelConfig:
    path = root / "config.pbtxt"
    config = parse_config_text(path.read_bytes()) if path.is_file() else ModelConfig()
    return replace(config, name=config.name or name)
