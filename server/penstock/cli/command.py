"""What the commands of the command line have in common: parsing, and errors of one plain line."""

import argparse
import difflib
import re
import sys
import textwrap
from collections.abc import Sequence
from typing import Never

USAGE_ERROR = 2
LONGEST_S = 86_400
_OPTION = re.compile(r"--[a-z][a-z0-9-]+")


class CommandError(Exception):
    """What went wrong, in one line for whoever typed the command; the exit code is 2."""


class Parser(argparse.ArgumentParser):
    """A parser whose help teaches by example, and whose errors are one line."""

    def __init__(self, prog: str, description: str, examples: Sequence[str] = ()) -> None:
        super().__init__(
            prog=prog,
            description=textwrap.fill(" ".join(description.split()), 88),
            epilog=_examples(examples),
            formatter_class=_Formatter,
            allow_abbrev=False,
        )

    def parse_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """The arguments; an option that is not known is answered with the nearest one that is."""
        # Else options between two arguments that may be left out would end the search for both.
        several = len(self._get_positional_actions()) > 1
        parse = self.parse_known_intermixed_args if several else self.parse_known_args
        known, unknown = parse(args, namespace)
        if unknown:
            # Without its value, which may be a secret if the option was only misspelt.
            name = unknown[0].partition("=")[0]
            self.error(f"unknown argument {name!r}{self._nearest(name)}")
        return known

    def _nearest(self, given: str) -> str:
        options = sorted(set(_OPTION.findall(self.format_help())))
        near = difflib.get_close_matches(given, options, 1)
        return f", did you mean {near[0]}?" if near else ""

    def error(self, message: str) -> Never:
        """Say in one line what was wrong with the arguments and end with code 2."""
        print(f"{self.prog}: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(USAGE_ERROR)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=96)


def _examples(lines: Sequence[str]) -> str | None:
    return "examples:\n" + "\n".join(f"  {line}" for line in lines) if lines else None


def seconds(text: str) -> float:
    """An argument that is a time: above 0, and a day at most."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    # Not `value <= 0`: what is no number is neither.
    if not value > 0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    if value > LONGEST_S:
        raise argparse.ArgumentTypeError(f"expected at most {LONGEST_S:,} seconds, got {text!r}")
    return value


def name_and_value(text: str) -> tuple[str, str]:
    """An argument of the form NAME=VALUE."""
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    return name, value
