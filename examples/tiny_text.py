"""The text that the demo's language model learns from: Python's own standard library, as it lies
beside the interpreter, and questions about it that the first sentences of its docstrings answer.
"""

import importlib
import inspect
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# What the model never sees: it is measured on these.
HELD_OUT = ("textwrap.py", "shlex.py", "sched.py", "fnmatch.py", "linecache.py", "cmd.py")
PACKAGES = ("asyncio", "collections", "concurrent", "email", "http", "importlib", "json", "logging")
# Tables and the like: nothing that reads as a program.
LEFT_OUT = ("__phello__.foo.py", "antigravity.py", "this.py", "sre_constants.py", "_sysconfigdata")
# The most everyday first: a model that has little time learns the first names only.
OWNERS = (
    *("builtins", "builtins.list", "builtins.dict", "os.path", "json", "builtins.str", "copy"),
    *("shutil", "time", "random", "math", "builtins.set", "itertools", "functools"),
)
PHRASES = (
    "what does {} do?",
    "what is {}?",
    "explain {}",
    "tell me about {}",
    "What does {} do?",
)
SYSTEM = "You explain Python in one sentence."
LONGEST_ANSWER = 110
_SENTENCE = re.compile(r"(.+?[.!])(?:\s|$)", re.DOTALL)
_SIGNATURE = re.compile(r"^[\w.]+\([^\n]*(?:\n|$)")


@dataclass(frozen=True, slots=True)
class Answered:
    """What a name of the standard library does."""

    name: str
    answer: str

    @property
    def questions(self) -> list[str]:
        """The ways in which one may ask for it."""
        return [phrase.format(self.name) for phrase in PHRASES]


def sources() -> list[str]:
    """The sources to learn from, a text each; the same on every machine with the same Python."""
    return [_read(path) for path in _files() if path.name not in HELD_OUT]


def held_out() -> str:
    """The sources that are kept to measure with."""
    return "\n".join(_read(_library() / name) for name in HELD_OUT)


def topics() -> list[str]:
    """The chapters of the language reference that `help()` shows."""
    try:
        module = importlib.import_module("pydoc_data.topics")
    except ImportError:  # a Python that was built without its documentation
        return []
    return [text.strip() for _, text in sorted(module.topics.items())]


def answered() -> list[Answered]:
    """Everyday names of the library, and what their docstrings say of them."""
    found = {each.name: each for owner in OWNERS for each in _of(owner)}
    return list(found.values())


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _files() -> list[Path]:
    library = _library()
    folders = [library, *(library / name for name in PACKAGES)]
    paths = [path for folder in folders for path in sorted(folder.glob("*.py"))]
    return [path for path in paths if not path.name.startswith(LEFT_OUT)]


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _of(owner: str) -> Iterator[Answered]:
    holder = _find(owner)
    prefix = owner.removeprefix("builtins").removeprefix(".")
    for name in sorted(getattr(holder, "__all__", vars(holder))):
        member = getattr(holder, name)
        if name.startswith("_") or not callable(member) or _is_error(member):
            continue
        answer = first_sentence(inspect.getdoc(member) or "")
        if answer:
            yield Answered(f"{prefix}.{name}" if prefix else name, answer)


def _is_error(member: object) -> bool:
    return isinstance(member, type) and issubclass(member, BaseException)


def _find(owner: str) -> object:
    module, _, name = owner.rpartition(".")
    if not module or owner == "os.path":
        return importlib.import_module(owner)
    return getattr(importlib.import_module(module), name)


def first_sentence(docstring: str) -> str:
    """The first sentence on one line, or nothing where there is none of a good length."""
    found = _SENTENCE.match(_SIGNATURE.sub("", docstring).strip())
    sentence = " ".join(found.group(1).split()) if found else ""
    plain = sentence.isascii() and "->" not in sentence and sentence[:1].isupper()
    return sentence if plain and 15 <= len(sentence) <= LONGEST_ANSWER else ""
