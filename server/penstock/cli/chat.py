"""`penstock chat`: a conversation with a language model, from a terminal or through a pipe."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress

from penstock.cli.answer import Answer
from penstock.cli.answer_printer import AnswerPrinter, print_deltas, print_figures
from penstock.cli.command import CommandError
from penstock.cli.connection import add_connection, connected, explain
from penstock.cli.generative import MESSAGES, Generative, find_model
from penstock.cli.sampling import add_form, add_sampling, sampling_of
from penstock.cli.terminal import Paint, is_terminal, plain
from penstock.client.errors import InferenceError
from penstock.client.sync import Client
from penstock_runtime.errors import Status

DESCRIPTION = """Talk with a language model: what you type and what it answers go through the
model's chat template, and the answer comes as it is made. Ctrl-C ends an answer and not the
conversation. Through a pipe each line is a message, and only the answers go to standard output.
MODEL may be left out where the server has only one that generates."""
EXAMPLES = (
    "penstock chat",
    "penstock chat tiny_llm --temperature 0 --system 'You explain Python in one sentence.'",
    "echo 'what does len do?' | penstock chat tiny_llm --quiet",
)
HELP = """\
/reset          forget the conversation
/system [TEXT]  say who the model is (without TEXT: no longer), and start anew
/undo           take the last question and its answer back
/exit           leave, as Ctrl-D does
Ctrl-C ends an answer; a line that ends in \\ goes on in the next one"""
LONGEST_S = 600.0
# As many tokens as fit: an answer is to end by itself.
UNBOUNDED = {"max_tokens": None}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("model", nargs="?", default="", metavar="MODEL", help="name of the model")
    parser.add_argument("--version", default="", help="version to ask (default: the latest)")
    parser.add_argument("--system", default="", metavar="TEXT", help="say who the model is")
    parser.add_argument("--quiet", action="store_true", help="print no figures")
    add_sampling(parser)
    add_form(parser)
    add_connection(parser, timeout=LONGEST_S)


def run(args: argparse.Namespace) -> int:
    """Talk until the end of the input."""
    with connected(args) as client:
        model = find_model(client, args.model, args.version)
        if MESSAGES not in model.inputs:
            raise CommandError(f"model {model.name} takes no {MESSAGES}: try penstock generate")
        chat = Chat(client, model, args)
        if is_terminal(sys.stdin):
            chat.talk()
        else:
            chat.read(sys.stdin)
    return 0


class Conversation:
    """The messages until now."""

    def __init__(self, system: str = "") -> None:
        self.system = system
        self._turns: list[tuple[str, str]] = []

    def reset(self) -> None:
        """Forget everything but who the model is."""
        self._turns.clear()

    def undo(self) -> None:
        """Take the last question and its answer back."""
        del self._turns[-1:]

    def add(self, question: str, answer: str) -> None:
        """What was asked and answered is part of it from now on."""
        self._turns.append((question, answer))

    def messages(self, question: str) -> str:
        """All of it and a new question, as the template wants it (JSON)."""
        said = [("system", self.system)] if self.system else []
        for asked, answer in self._turns:
            said += [("user", asked), ("assistant", answer)]
        said.append(("user", question))
        return json.dumps([{"role": role, "content": content} for role, content in said])

    def __len__(self) -> int:
        return len(self._turns)


class Chat:
    """A conversation with one model, and the commands that begin with a slash."""

    def __init__(self, client: Client, model: Generative, args: argparse.Namespace) -> None:
        self._client = client
        self._model = model
        self._quiet = args.quiet
        self._url = args.url
        self._sampling = UNBOUNDED | sampling_of(args)
        self._conversation = Conversation(args.system)
        self._paint = Paint(sys.stdout)

    def talk(self) -> None:
        """With whoever sits at the terminal."""
        with suppress(ImportError):
            import readline  # noqa: F401 - gives `input` its line editing and its history

        print(self._paint(f"{plain(self._model.name)}: /help tells what there is", "dim"))
        while (line := self._ask()) is not None:
            if line.startswith("/"):
                if not self._command(line):
                    return
            elif line:
                self._try(line)

    def read(self, lines: Sequence[str] | Iterator[str]) -> None:
        """From a pipe: a message a line; the first that fails is the last."""
        for each in lines:
            line = each.strip()
            if line.startswith("/"):
                if not self._command(line):
                    return
            elif line:
                self._answer(line)

    def _ask(self) -> str | None:
        """The next message, or None at the end of the input."""
        lines: list[str] = []
        while True:
            try:
                line = input(_prompt(self._paint, bool(lines)))
            except EOFError:
                print()
                return None
            except KeyboardInterrupt:
                print(self._paint("  (/exit or Ctrl-D leaves)", "dim"))
                lines.clear()
                continue
            if not line.endswith("\\"):
                return "\n".join([*lines, line]).strip()
            lines.append(line[:-1])

    def _try(self, question: str) -> None:
        """Answer; what goes wrong is told, and the conversation goes on."""
        try:
            self._answer(question)
        except InferenceError as error:
            print(self._paint(plain(explain(error, self._url)), "red"))
            if error.status is Status.INVALID_ARGUMENT and len(self._conversation):
                self._say("/reset forgets the conversation, /undo its end")

    def _answer(self, question: str) -> None:
        """Ask, print what comes, and keep it; an answer that was cut short is kept as it is."""
        answer = Answer()
        source = {MESSAGES: self._conversation.messages(question)}
        try:
            with self._model.ask(self._client, source, self._sampling) as results:
                print_deltas(answer, results, AnswerPrinter(sys.stdout))
        except KeyboardInterrupt:
            if not is_terminal(sys.stdin):
                raise
        if answer.choices:
            self._conversation.add(question, answer.choices[min(answer.choices)].text)
        if not self._quiet:
            print_figures(answer)

    def _command(self, line: str) -> bool:
        """Do what a line says that begins with a slash; False if it is to leave."""
        name, _, text = line.partition(" ")
        match name:
            case "/exit" | "/quit":
                return False
            case "/reset":
                self._conversation.reset()
                self._say("the conversation is forgotten")
            case "/undo":
                self._conversation.undo()
                self._say(f"{len(self._conversation)} of your messages left")
            case "/system":
                self._conversation = Conversation(text.strip())
                self._say("it knows who it is" if text.strip() else "it is nobody in particular")
            case "/help":
                self._say(HELP)
            case _:
                self._say(f"unknown command {plain(name)}\n{HELP}")
        return True

    def _say(self, text: str) -> None:
        # Beside the answers, so that a pipe holds nothing else.
        print(Paint(sys.stderr)(text, "dim"), file=sys.stderr)


def _prompt(paint: Paint, goes_on: bool) -> str:
    mark = "… " if goes_on else "> "
    # readline counts what is between \x01 and \x02 as no width.
    return f"\x01\x1b[1m\x02{mark}\x01\x1b[0m\x02" if paint.enabled else mark
