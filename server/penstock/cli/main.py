"""`penstock`: finds the command that was asked for, and loads that one only."""

import difflib
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from penstock.cli.command import USAGE_ERROR, CommandError, Parser
from penstock.version import __version__
from penstock_runtime.errors import PenstockError

# A module of the same name in this package has DESCRIPTION, EXAMPLES, add_arguments and run.
COMMANDS = {
    "serve": "serve a model repository, or one model",
    "infer": "send one request to a model and print the answer",
    "generate": "let a language model go on with a prompt",
    "chat": "talk with a language model",
    "calls": "list and search the record of what language models were asked",
    "models": "list the models of a server, their state and their figures",
    "load": "load or reload a model of a running server",
    "unload": "unload a model of a running server",
    "health": "say whether a server is healthy; the exit code is for probes",
    "lint": "find every mistake in the configurations of a repository",
    "init": "write the config.pbtxt of a model from the model itself",
    "demo": "digits, meaning and a stream: see the demo models answer",
    "bench": "measure latency and throughput of a model under load",
    "selftest": "run a round of checks against any live v2 server",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 is success, 1 that the answer is no, 2 that the command failed."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        return _help(arguments[1:])
    if arguments[0] in ("-V", "--version"):
        print(f"penstock {__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        return _fail("penstock", _unknown(arguments[0]))
    return _run(arguments[0], arguments[1:])


def _run(name: str, arguments: list[str]) -> int:
    # grpc writes to stderr by itself, and what it says there our errors say in plain words.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    module = import_module(f"penstock.cli.{name}")
    parser = Parser(f"penstock {name}", module.DESCRIPTION, module.EXAMPLES)
    try:
        module.add_arguments(parser)
        return int(module.run(parser.parse_args(arguments)))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except (CommandError, PenstockError) as error:
        return _fail(parser.prog, str(error))
    except BrokenPipeError:
        # Whoever read our output has enough; without this Python would fail again at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _fail(parser.prog, f"{error.filename or 'input/output'}: {error.strerror or error}")
    except KeyboardInterrupt:
        return 130


def _help(topics: list[str]) -> int:
    if topics and topics[0] in COMMANDS:
        return _run(topics[0], ["--help"])
    width = max(map(len, COMMANDS))
    print("usage: penstock COMMAND [OPTIONS]\n")
    print("A KServe v2 gRPC inference server: batched, streamed, hot-reloaded.\n")
    print("commands:")
    for name, text in COMMANDS.items():
        print(f"  {name:<{width}}  {text}")
    print("\n  penstock COMMAND --help explains a command and shows it at work")
    print("  penstock --version says which version this is")
    return 0


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, COMMANDS, 1)
    hint = f"did you mean {near[0]!r}?" if near else "see penstock --help"
    return f"unknown command {name!r}, {hint}"


def _fail(prog: str, message: str) -> int:
    print(f"{prog}: {' '.join(message.split())}", file=sys.stderr)
    return USAGE_ERROR
