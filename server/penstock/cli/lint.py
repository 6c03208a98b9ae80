"""`penstock lint`: everything that is wrong in the configurations of a repository, at once."""

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from penstock.cache_config import cache_settings
from penstock.cli.command import CommandError
from penstock.cli.config_lines import line_of
from penstock.cli.foreign import file_problems
from penstock.cli.lint_ensembles import ensemble_findings
from penstock.cli.terminal import Paint, plain
from penstock.config_text import parse_config_text
from penstock_runtime.backends.base import ModelSource
from penstock_runtime.backends.registry import default_registry
from penstock_runtime.config import ModelConfig
from penstock_runtime.config_check import problems
from penstock_runtime.config_reader import parse_json, parse_yaml
from penstock_runtime.errors import InvalidArgument, PenstockError
from penstock_runtime.labels import label_problems
from penstock_runtime.repository.index import ModelFolder, is_bare, scan
from penstock_runtime.unavailable import refuse_unavailable

DESCRIPTION = """Read the configuration of every model of a repository and print everything that is
wrong or doubtful in it, with the line and what to write instead; files of ONNX, MLServer and
TorchServe models are looked at as well. Nothing is loaded and no code of a model runs. The exit
code is 1 if a model could not be served."""
EXAMPLES = (
    "penstock lint models/",
    "penstock lint models/digits/config.pbtxt",
    "penstock lint models/ --strict",
)
PARSERS: dict[str, Callable[[bytes], ModelConfig]] = {
    ".pbtxt": parse_config_text,
    ".json": parse_json,
    ".yaml": parse_yaml,
    ".yml": parse_yaml,
}
# Of Triton's Python backend, which refuses it when it has read the model's code.
ENVIRONMENT = "EXECUTION_ENV_PATH"
_LINE = re.compile(r"line (\d+)(?:, column \d+)?")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: where, how badly, what, and what would mend it."""

    place: str
    line: int
    severity: str
    text: str
    fix: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument(
        "path", type=Path, metavar="REPO", help="a repository, one model's folder, or one file"
    )
    parser.add_argument("--strict", action="store_true", help="warnings count as errors")
    parser.add_argument(
        "--cache-config",
        action="append",
        default=[],
        metavar="local,KEY=VALUE",
        help="what `penstock serve` is given: models that enable the response cache find one",
    )


def run(args: argparse.Namespace) -> int:
    """Print every finding; 1 when one of them is an error."""
    count, findings = lint(args.path, cached=bool(cache_settings(args.cache_config).size))
    for finding in findings:
        print(_format(finding))
    errors = sum(finding.severity == "error" for finding in findings)
    warnings = len(findings) - errors
    print(f"{_plural(count, 'model')}, {_plural(errors, 'error')}, {_plural(warnings, 'warning')}")
    return 1 if errors or (args.strict and warnings) else 0


def lint(path: Path, *, cached: bool = False) -> tuple[int, list[Finding]]:
    """How many models there are, and everything that is wrong with them; `cached` says that their
    server has a response cache.
    """
    if path.is_file():
        return 1, list(lint_file(path, path.parent.name, str(path), path.parent, cached=cached))
    if not path.is_dir():
        raise CommandError(f"{path} is not there, expected a model repository")
    folders = scan(path, model_name=path.resolve().name if is_bare(path) else "")
    if not folders:
        raise CommandError(f"{path} holds no models, expected folders such as {path}/NAME/1")
    found = [each for folder in folders.values() for each in lint_folder(folder, cached)]
    return len(folders), [*found, *lint_ensembles(folders)]


def lint_folder(folder: ModelFolder, cached: bool = False) -> Iterator[Finding]:
    """What is wrong with one model's folder and its configuration."""
    if folder.problem:
        yield Finding(folder.name, 0, "error", folder.problem)
    elif not folder.versions:
        fix = f"put its files into {folder.name}/1"
        yield Finding(folder.name, 0, "error", "the model has no version folder", fix)
    for warning in folder.warnings:
        yield Finding(folder.name, 0, "warning", warning)
    if folder.config_path is not None:
        place = f"{folder.name}/{folder.config_path.name}"
        name = "" if folder.named_by_operator else folder.name
        yield from lint_file(folder.config_path, name, place, folder.root, cached=cached)
    yield from _lint_versions(folder)


def _lint_versions(folder: ModelFolder) -> Iterator[Finding]:
    """What is wrong with the files of each version, as far as they can be looked at."""
    config = _config_of(folder)
    if config is None:
        return
    config = replace(config, name=folder.name)
    for version in folder.versions:
        directory = folder.directory(version)
        source = ModelSource(config, version, directory, folder.root)
        refused = _refused(source)
        if refused is not None:
            yield Finding(*_place_of(folder, refused), "error", refused.message)
            return
        for problem in file_problems(source):
            where = directory.relative_to(folder.root) / problem.file
            place = f"{folder.name}/{where}"
            yield Finding(place, 0, problem.severity, problem.text, problem.fix)


def _refused(source: ModelSource) -> PenstockError | None:
    """Why no server would load this version, whatever its files hold: there is no backend for it,
    or it asks for what is not done here. A folder that is still empty may become anything.
    """
    config = source.config
    named = config.backend or config.platform or config.runtime
    try:
        refuse_unavailable(config)
        if named or any(not path.name.startswith(".") for path in source.directory.iterdir()):
            default_registry().find(source)
    except PenstockError as refused:
        return refused
    return None


def _place_of(folder: ModelFolder, refused: PenstockError) -> tuple[str, int]:
    """The file and the line that a refusal is about: that of the backend, if one is named."""
    if folder.config_path is None:
        return folder.name, 0
    text = folder.config_path.read_text(errors="replace")
    named = re.search(r": (backend|platform|runtime) is ", refused.message)
    return f"{folder.name}/{folder.config_path.name}", line_of(text, named[1]) if named else 0


def _config_of(folder: ModelFolder) -> ModelConfig | None:
    """The configuration, if there is none or it can be read; its own findings are told already."""
    path = folder.config_path
    if path is None:
        return ModelConfig()
    try:
        return PARSERS[path.suffix](path.read_bytes())
    except (InvalidArgument, KeyError):
        return None


def lint_file(
    path: Path, name: str, place: str, root: Path | None = None, *, cached: bool = False
) -> Iterator[Finding]:
    """What is wrong with one configuration file of the model `name` ("": it may have any).

    With `root`, the model's folder, also with the files there that it names.
    """
    parser = PARSERS.get(path.suffix)
    if parser is None:
        raise CommandError(f"{path} is no configuration, expected {', '.join(PARSERS)}")
    data = path.read_bytes()
    text = data.decode(errors="replace")
    try:
        config = parser(data)
    except InvalidArgument as error:
        yield from _unreadable(error, text, place)
        return
    if config.name and name and config.name != name:
        text_of = f"name: '{config.name}' is not the name of the model's folder, '{name}'"
        yield Finding(place, line_of(text, "name"), "error", text_of, "remove the name")
    of_files = label_problems(config, root) if root is not None else ()
    for problem in chain(problems(config), of_files):
        line = line_of(text, problem.field)
        message = f"{problem.field}: {problem.message}"
        yield Finding(place, line, problem.severity, message, problem.fix)
    if config.parameter(ENVIRONMENT):
        message = f"parameters[{ENVIRONMENT}]: models are not given environments of their own"
        fix = "install what the model needs beside the server, and remove it"
        yield Finding(place, line_of(text, "parameters"), "error", message, fix)
    if config.response_cache is not None and config.response_cache.enable and not cached:
        message = "response_cache: without a cache in the server every request is executed"
        fix = "serve with --cache-config=local,size=BYTES, and say so here"
        yield Finding(place, line_of(text, "response_cache"), "warning", message, fix)


def lint_ensembles(folders: Mapping[str, ModelFolder]) -> Iterator[Finding]:
    """What does not fit between the ensembles of a repository and the models of their steps."""
    texts: dict[str, bytes] = {}
    configs: dict[str, ModelConfig | None] = dict.fromkeys(folders)
    for name, folder in folders.items():
        path = folder.config_path
        if path is None or path.suffix not in PARSERS:
            continue
        texts[name] = path.read_bytes()
        # What cannot be read has been told of.
        with suppress(InvalidArgument):
            configs[name] = replace(PARSERS[path.suffix](texts[name]), name=name)
    for name, problem in ensemble_findings(configs):
        path = folders[name].config_path
        assert path is not None
        line = line_of(texts[name].decode(errors="replace"), problem.field)
        message = f"{problem.field}: {problem.message}"
        yield Finding(f"{name}/{path.name}", line, problem.severity, message, problem.fix)


def _unreadable(error: InvalidArgument, text: str, place: str) -> Iterator[Finding]:
    if not error.violations:
        found = _LINE.search(error.message)
        yield Finding(place, int(found[1]) if found else 0, "error", error.message)
    for violation in error.violations:
        found = _LINE.fullmatch(violation.field)
        if found:
            yield Finding(place, int(found[1]), "error", violation.description)
        else:
            message = f"{violation.field}: {violation.description}"
            yield Finding(place, line_of(text, violation.field), "error", message)


def _format(finding: Finding) -> str:
    paint = Paint(sys.stdout)
    line = f":{finding.line}" if finding.line else ""
    severity = paint(finding.severity, "red" if finding.severity == "error" else "yellow")
    fix = f" ({finding.fix})" if finding.fix else ""
    return plain(f"{finding.place}{line}: ") + f"{severity}: " + plain(finding.text + fix)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
