"""`penstock generate`: one prompt, the text that a language model goes on with."""

import argparse
import sys
from pathlib import Path

from penstock.cli.answer import Answer
from penstock.cli.answer_printer import (
    AnswerPrinter,
    print_deltas,
    print_figures,
    print_json,
    print_logprobs,
)
from penstock.cli.command import CommandError
from penstock.cli.connection import add_connection, connected
from penstock.cli.generative import TEXT, Generative, describe, find_model, only_model
from penstock.cli.sampling import add_form, add_sampling, sampling_of
from penstock.client.errors import InferenceError
from penstock.client.sync import Client
from penstock_runtime.errors import Status

DESCRIPTION = """Let a language model go on with a prompt, and print the text as it comes. The
figures follow on stderr: tokens, the time to the first and tokens a second as seen from here, and
what the server says of them. MODEL may be left out where the server has only one that generates;
the prompt comes as an argument, from a file, or from standard input."""
EXAMPLES = (
    "penstock generate tiny_llm 'def read_file(' --max-tokens 80 --temperature 0.7",
    "penstock generate 'import os' --n 3 --seed 1 --stop 'def '",
    "git diff | penstock generate gemma --param min_p=0.05",
    "penstock generate gemma 'Name a colour: ' --choice red --choice green",
    "penstock generate gemma --file prompt.txt --json-schema answer.json --no-stream --json",
)
LONGEST_S = 600.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("model", nargs="?", metavar="MODEL", help="name of the model")
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="the text to go on with")
    parser.add_argument("--file", type=Path, metavar="FILE", help="read the prompt from a file")
    parser.add_argument("--version", default="", help="version to ask (default: the latest)")
    parser.add_argument("--n", type=_positive, metavar="N", help="so many answers (default 1)")
    parser.add_argument(
        "--logprobs",
        type=int,
        metavar="K",
        help="tell how likely each token was, and its K rivals",
    )
    parser.add_argument(
        "--no-stream", action="store_true", help="ask for the whole answer at once (ModelInfer)"
    )
    parser.add_argument(
        "--json", action="store_true", help="print JSON: a line for each delta, then the figures"
    )
    parser.add_argument("--quiet", action="store_true", help="print no figures")
    add_sampling(parser)
    add_form(parser)
    add_connection(parser, timeout=LONGEST_S)


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a number from 1, got {text!r}")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Ask, and print what comes; 130 if it was cancelled."""
    sampling = sampling_of(args)
    with connected(args) as client:
        model, prompt = _choose(client, args)
        answer = Answer()
        try:
            with model.ask(client, {TEXT: prompt}, sampling, streams=not args.no_stream) as results:
                if args.json:
                    print_json(answer, results)
                else:
                    print_deltas(answer, results, AnswerPrinter(sys.stdout, args.n or 1))
            code = 0
        except KeyboardInterrupt:
            code = 130
    if args.json:
        return code
    if args.logprobs is not None:
        for index in sorted(answer.choices):
            print_logprobs(answer.choices[index])
    if not args.quiet:
        print_figures(answer)
    return code


def _choose(client: Client, args: argparse.Namespace) -> tuple[Generative, str]:
    """The model and the prompt; a lone argument is the model if the server has one of that name."""
    if args.prompt is not None:
        if args.file:
            raise CommandError("the prompt was given twice: as an argument and in --file")
        return find_model(client, args.model, args.version), args.prompt
    if args.model is None or (args.file is None and not _exists(client, args.model)):
        model = only_model(client)
        return model, _read(args.file) if args.model is None else args.model
    return find_model(client, args.model, args.version), _read(args.file)


def _exists(client: Client, name: str) -> bool:
    """Whether the server has a model of this name, generative or not."""
    try:
        describe(client, name)
    except InferenceError as error:
        if error.status in (Status.NOT_FOUND, Status.INVALID_ARGUMENT):
            return False
        raise
    return True


def _read(path: Path | None) -> str:
    """The prompt out of a file or standard input; a last line's end does not belong to it."""
    if path is not None:
        text = path.read_text(errors="replace")
    elif sys.stdin is None or sys.stdin.isatty():
        raise CommandError("no prompt was given, expected PROMPT, --file or standard input")
    else:
        text = sys.stdin.read()
    if not text:
        raise CommandError(f"the prompt is empty: nothing came from {path or 'standard input'}")
    return text.removesuffix("\n")
