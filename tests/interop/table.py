"""The table of who met the server, over what, and how it went."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import pytest

OK = "ok"
FAILED = "**failed**"


class Met(Protocol):
    """Whoever can be in the table."""

    @property
    def name(self) -> str:
        """What the table calls it."""

    @property
    def unable(self) -> Mapping[str, str]:
        """Cases that it cannot do, each with the reason."""

    def missing(self) -> str:
        """Why it cannot run on this machine; "" if it can."""

    def version(self) -> str:
        """The version of the library or tool."""


@dataclass(slots=True)
class Table:
    """Verdicts by client, transport and case; a verdict is `ok`, `failed` or why there is none."""

    versions: dict[str, str] = field(default_factory=dict)
    verdicts: dict[tuple[str, str, str], str] = field(default_factory=dict)

    @contextmanager
    def meeting(self, client: Met, transport: str, case: str, why_not: str = "") -> Iterator[None]:
        """Note how the block went; it is skipped where the client is not there or not able, or for
        the reason that is given.
        """
        key = (client.name, transport, case)
        why_not = why_not or client.missing() or client.unable.get(case, "")
        self.verdicts[key] = why_not or FAILED
        if why_not:
            pytest.skip(why_not)
        self.versions.setdefault(client.name, client.version())
        yield
        self.verdicts[key] = OK

    def markdown(self) -> str:
        """For every transport a table of the cases that several clients have, and one of the cases
        of one client alone; then why cells are empty.
        """
        transports = list(dict.fromkeys(transport for _, transport, _ in self.verdicts))
        parts = [part for transport in transports for part in self._transport(transport)]
        return "\n".join([*parts, *self._reasons()]) + "\n"

    def _transport(self, transport: str) -> Iterator[str]:
        met: dict[str, list[str]] = {}
        for client, over, case in self.verdicts:
            if over == transport:
                met.setdefault(case, []).append(client)
        shared = {case: clients for case, clients in met.items() if len(clients) > 1}
        yield f"## {transport}\n"
        yield from self._matrix(transport, shared)
        if len(shared) < len(met):
            yield "| | | |\n|---|---|---|"
        for case, (client, *others) in met.items():
            if not others:
                title = self._title(client)
                yield f"| {title} | {case} | {self._cell(client, transport, case)} |"
        yield ""

    def _matrix(self, transport: str, shared: Mapping[str, list[str]]) -> Iterator[str]:
        clients = list(dict.fromkeys(client for some in shared.values() for client in some))
        if clients:
            yield "| | " + " | ".join(map(self._title, clients)) + " |"
            yield "|---" * (len(clients) + 1) + "|"
        for case in shared:
            cells = [self._cell(client, transport, case) for client in clients]
            yield f"| {case} | " + " | ".join(cells) + " |"
        yield ""

    def _title(self, client: str) -> str:
        return f"{client} {self.versions.get(client, '')}".strip()

    def _cell(self, client: str, transport: str, case: str) -> str:
        verdict = self.verdicts.get((client, transport, case), "")
        return verdict if verdict in (OK, FAILED, "") else "-"

    def _reasons(self) -> Iterator[str]:
        reasons: dict[tuple[str, str], list[str]] = {}
        for (client, _, case), verdict in self.verdicts.items():
            if verdict not in (OK, FAILED):
                cases = reasons.setdefault((client, verdict), [])
                if case not in cases:
                    cases.append(case)
        if reasons:
            yield "## What was not tried\n"
        for (client, reason), cases in reasons.items():
            yield f"* {client}, {', '.join(cases)}: {reason}"
