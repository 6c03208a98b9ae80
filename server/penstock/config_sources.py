"""Where options come from: a flag wins over the environment, that over the file, that over the
default.

`add_flags` and `from_arguments` are for a command line with other commands; `read_options` is the
whole way at once.
"""

import argparse
import difflib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from penstock.config import FLAGS, FOREIGN_FLAGS, GROUPS, Flag, ServerOptions
from penstock.config_document import read_document
from penstock.config_foreign import ForeignFlag
from penstock.options.http import reason_for_no_http
from penstock.restrictions import HTTP, read_restrictions
from penstock.trace_config import read_trace_config
from penstock_runtime.errors import InvalidArgument

_TRUE = frozenset(("true", "1", "yes", "on"))
_FALSE = frozenset(("false", "0", "no", "off", ""))
_GIVEN_FOREIGN = "given_foreign"
RESPONSE_DELAY_HOOK = "TRITONSERVER_SERVER_DELAY_GRPC_RESPONSE_SEC"


def read_options(
    argv: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> ServerOptions:
    """The options of a command line (without the program's name) and an environment.

    A command line that cannot be read prints why and exits with status 2.
    """
    parser = argparse.ArgumentParser("penstock serve", allow_abbrev=False)
    add_flags(parser)
    namespace, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.error(unknown_flag(unknown[0]))
    try:
        return from_arguments(namespace, os.environ if environ is None else environ)
    except InvalidArgument as error:
        parser.error(error.message)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add every option to a parser, in groups with their help."""
    groups = {name: parser.add_argument_group(f"{name}: {GROUPS[name]}") for name in GROUPS}
    for flag in FLAGS:
        _add_flag(groups[flag.info.group], flag)
    for foreign in FOREIGN_FLAGS.values():
        groups["ignored"].add_argument(
            f"--{foreign.name}",
            action=_Foreign,
            nargs="?",
            const="true",
            dest=_GIVEN_FOREIGN,
            default=argparse.SUPPRESS,
            help=argparse.SUPPRESS,
        )


def from_arguments(namespace: argparse.Namespace, environ: Mapping[str, str]) -> ServerOptions:
    """The options of parsed flags and an environment; InvalidArgument names what is wrong."""
    given = vars(namespace)
    flags = {flag.field: given[flag.field] for flag in FLAGS if flag.field in given}
    for flag in FLAGS:
        if flag.repeated and flag.field in flags:
            flags[flag.field] = tuple(flags[flag.field])
    variables = read_environment(environ)
    path = flags.get("config_file") or variables.get("config_file", "")
    file = read_file(Path(path)) if path else {}
    values: dict[str, Any] = {**file, **variables, **flags}
    if values.get("drain_delay", -1.0) < 0:
        values["drain_delay"] = 5.0 if "KUBERNETES_SERVICE_HOST" in environ else 0.0
    # Here, so that a mistake ends the start before anything is imported or bound.
    read_trace_config(values.get("trace_config", ()), environ)
    closed = read_restrictions(values.get("grpc_restricted_protocol", ()))
    closed_too = read_restrictions(values.get("http_restricted_api", ()), HTTP)
    tls = values.get("grpc_use_ssl", False) or values.get("grpc_use_ssl_mutual", False)
    # Who says nothing of it has HTTP wherever it can be had, as with Triton.
    off = "" if "allow_http" in values else reason_for_no_http(tls, closed.keys() - closed_too)
    values.setdefault("allow_http", not off)
    foreign: Mapping[str, str] = given.get(_GIVEN_FOREIGN, {})
    delay = read_value(_HOOK, environ.get(RESPONSE_DELAY_HOOK, "0"), RESPONSE_DELAY_HOOK)
    return ServerOptions(
        **values, ignored=tuple(foreign), http_off=off, grpc_response_delay_s=delay
    )


def read_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """What PENSTOCK_* variables say; a repeated option separates its values by its separator."""
    values: dict[str, Any] = {}
    for flag in FLAGS:
        text = environ.get(flag.variable)
        if text is None:
            continue
        if flag.repeated:
            parts = map(str.strip, text.split(flag.info.separator))
            values[flag.field] = tuple(part for part in parts if part)
        else:
            values[flag.field] = read_value(flag, text, flag.variable)
    return values


def read_file(path: Path) -> dict[str, Any]:
    """What a JSON or YAML file of options says; names as in flags, with dashes or underscores."""
    content = read_document(path, "--config-file")
    if not isinstance(content, dict):
        raise InvalidArgument(
            f"{path} must hold a mapping of options, got {type(content).__name__}"
        )
    known = {flag.field: flag for flag in FLAGS}
    values: dict[str, Any] = {}
    for key, value in content.items():
        flag = known.get(str(key).replace("-", "_"))
        if flag is None:
            raise InvalidArgument(f"{path}: {unknown_flag(str(key))}")
        values[flag.field] = _from_file(flag, value, f"{path}: {key}")
    return values


def read_value(flag: Flag, text: str, source: str) -> Any:
    """One value of a flag out of its text; InvalidArgument names `source`."""
    try:
        value = _convert(flag.default, text)
    except ValueError:
        expected = type(flag.default).__name__
        raise InvalidArgument(f"{source}: expected {expected}, got {text!r}") from None
    _check_range(flag, value, source)
    return value


def unknown_flag(given: str) -> str:
    """What to say of a flag that is none, with the nearest one that is."""
    name = given.lstrip("-").partition("=")[0].replace("_", "-")
    known = [flag.name for flag in FLAGS] + list(FOREIGN_FLAGS)
    near = difflib.get_close_matches(name, known, 1)
    # Without its value, which may be a secret if the option was only misspelt.
    told = f"unknown option {given.partition('=')[0]!r}"
    return told + (f", did you mean --{near[0]}?" if near else "")


def _convert(default: Any, text: str) -> Any:
    if isinstance(default, bool):
        word = text.strip().lower()
        if word not in _TRUE | _FALSE:
            raise ValueError(text)
        return word in _TRUE
    if isinstance(default, int | float):
        return type(default)(text)
    return text


def _check_range(flag: Flag, value: Any, source: str) -> None:
    info = flag.info
    if info.choices and value not in info.choices:
        raise InvalidArgument(f"{source}: expected one of {', '.join(info.choices)}, got {value!r}")
    if info.minimum is not None and value < info.minimum:
        raise InvalidArgument(f"{source}: expected at least {info.minimum}, got {value}")
    if info.maximum is not None and value > info.maximum:
        raise InvalidArgument(f"{source}: expected at most {info.maximum}, got {value}")


def _from_file(flag: Flag, value: Any, source: str) -> Any:
    if flag.repeated:
        items = value if isinstance(value, list) else [value]
        return tuple(str(item) for item in items)
    return read_value(flag, str(value), source)


_HOOK = Flag("grpc_response_delay_s", 0.0, FLAGS[0].info)


class _Foreign(argparse.Action):
    """Notes a flag that has no effect here; refuses one that must not be ignored."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        name = (option_string or "").lstrip("-")
        foreign: ForeignFlag = FOREIGN_FLAGS[name]
        if foreign.refuses(str(values).lower() not in _FALSE):
            parser.error(f"--{name}: {foreign.refused}")
        given: dict[str, str] = getattr(namespace, _GIVEN_FOREIGN, {})
        setattr(namespace, _GIVEN_FOREIGN, {**given, name: str(values)})


class _Parse:
    """Turns the text of one flag into its value, with argparse's kind of error."""

    def __init__(self, flag: Flag) -> None:
        self._flag = flag
        self.__name__ = flag.name

    def __call__(self, text: str) -> Any:
        try:
            return read_value(self._flag, text, f"--{self._flag.name}")
        except InvalidArgument as error:
            raise argparse.ArgumentTypeError(error.message.partition(": ")[2]) from None


def _add_flag(group: Any, flag: Flag) -> None:
    names = [f"--{name}" for name in (flag.name, *flag.info.aliases)]
    more: dict[str, Any] = {"dest": flag.field, "default": argparse.SUPPRESS}
    more["help"] = f"{flag.info.help} [{_shown(flag.default)}] ({flag.variable})".replace("%", "%%")
    more["metavar"] = flag.info.metavar or _metavar(flag)
    if flag.repeated:
        more["action"] = "append"
    else:
        more["type"] = _Parse(flag)
    if isinstance(flag.default, bool):
        more.update(nargs="?", const=True)
    group.add_argument(*names, **more)


def _metavar(flag: Flag) -> str:
    if flag.info.choices:
        return "{" + ",".join(flag.info.choices) + "}"
    if isinstance(flag.default, bool):
        return "BOOL"
    return "N" if isinstance(flag.default, int | float) else "TEXT"


def _shown(default: Any) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return ", ".join(default) or "none"
    return str(default) if default != "" else "none"
