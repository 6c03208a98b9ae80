"""The scrapes of several processes as one: every family once, every sample with its process.

Reads the text that `observability.metrics.render` writes, and nothing else.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

LABEL = "process"

_FAMILY = "# HELP "
_KIND = "# TYPE "
_SAMPLE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(\{?)")
_TAKEN = re.compile(rf'(?<=[{{,]){LABEL}="')


@dataclass(slots=True)
class _Merged:
    """One family: what it is (two lines), and its samples so far."""

    head: list[str] = field(default_factory=list)
    samples: list[str] = field(default_factory=list)


def merged(scrapes: Mapping[str, bytes]) -> bytes:
    """The text of all of them, in their order; the keys become the label `process`.

    A family is described as the first process that has it does.
    """
    families: dict[str, _Merged] = {}
    for process, text in scrapes.items():
        # Not splitlines: what else it takes for the end of a line may stand in a label.
        _add(families, process, filter(None, text.decode().split("\n")))
    lines = (line for family in families.values() for line in (*family.head, *family.samples))
    return "".join(f"{line}\n" for line in lines).encode()


def _add(families: dict[str, _Merged], process: str, lines: Iterable[str]) -> None:
    family, new = _Merged(), False
    for line in lines:
        if line.startswith(_FAMILY):
            name = line.split(" ", 3)[2]
            new = name not in families
            family = families.setdefault(name, _Merged())
        if not line.startswith("#"):
            family.samples.append(labelled(line, process))
        elif new and line.startswith((_FAMILY, _KIND)):
            family.head.append(line)


def labelled(sample: str, process: str) -> str:
    """The line of one sample with the label; a label of that name becomes `exported_process`."""
    found = _SAMPLE.match(sample)
    if found is None:
        return sample
    name, rest = found[1], sample[found.end() :]
    if not found[2]:
        return f'{name}{{{LABEL}="{process}"}}{rest}'
    rest = _TAKEN.sub(f'exported_{LABEL}="', "{" + rest)[1:]
    return f'{name}{{{LABEL}="{process}",{rest}'
