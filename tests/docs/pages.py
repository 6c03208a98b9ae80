"""Reads the pages of the documentation: their blocks of code, tables, links and headings.

A comment of HTML directly above a block says what is done with it, and is not seen by a reader:

    <!-- run -->                   it is executed, in the folder of its chapter
    <!-- file: PATH -->            it is written to that file there
    <!-- prints -->                this is the end of what the block above has printed
    <!-- not run: REASON -->       it needs what is not here
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_MARK = re.compile(r"<!-- (run|file|prints|not run)(?:: (.*))? -->")
_HEADING = re.compile(r"(#+) (.*)")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`]+)`")


@dataclass(frozen=True, slots=True)
class Block:
    """A block of code: where it is, and what its comment says of it."""

    chapter: str
    line: int
    language: str
    text: str
    mark: str
    argument: str


def blocks(page: Path) -> list[Block]:
    """Every block of a page, in order; the chapter is the last heading of the second level."""
    return list(_blocks(page.read_text().splitlines()))


def links(page: Path) -> Iterator[str]:
    """Where a page points to, as written."""
    yield from _LINK.findall(_prose(page))


def anchors(page: Path) -> set[str]:
    """The names that headings of a page have in links."""
    titles = (match[2] for line in _prose(page).splitlines() if (match := _HEADING.match(line)))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def tables(page: Path, chapter: str) -> list[list[list[str]]]:
    """The tables of a chapter: rows of cells, without the head."""
    found: list[list[list[str]]] = []
    inside = ""
    table: list[list[str]] = []
    for line in [*_prose(page).splitlines(), ""]:
        if line.startswith("## "):
            inside = line[3:]
        if line.startswith("|"):
            table.append([cell.strip() for cell in line.strip("|").split("|")])
        elif table:
            if inside == chapter:
                found.append(table[2:])
            table = []
    return found


def items(page: Path, chapter: str) -> list[str]:
    """The items of the lists of a chapter, each as one line."""
    _, _, rest = _prose(page).partition(f"## {chapter}\n")
    text = re.split(r"^## ", rest, maxsplit=1, flags=re.MULTILINE)[0]
    found = re.findall(r"^\* (.*(?:\n  .*)*)", text, re.MULTILINE)
    return [" ".join(item.split()) for item in found]


def codes(cell: str) -> list[str]:
    """What stands between backticks."""
    return _CODE.findall(cell)


def _prose(page: Path) -> str:
    """A page without its blocks."""
    kept, inside = [], False
    for line in page.read_text().splitlines():
        if line.startswith("```"):
            inside = not inside
        elif not inside:
            kept.append(line)
    return "\n".join(kept)


def _blocks(lines: list[str]) -> Iterator[Block]:
    chapter, start, language, said = "", 0, "", ("", "")
    for number, line in enumerate(lines, 1):
        if line.startswith("```") and not start:
            start, language = number, line[3:].strip()
            match = _MARK.fullmatch(lines[number - 2].strip()) if number > 1 else None
            said = (match[1], match[2] or "") if match else ("", "")
        elif line.startswith("```"):
            text = "\n".join(lines[start : number - 1]) + "\n"
            yield Block(chapter, start, language, text, *said)
            start = 0
        elif line.startswith("## ") and not start:
            chapter = line[3:]
