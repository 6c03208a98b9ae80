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
    def meeting(self, client: Met, transport: str, case: str) -> Iterator[None]:
        """Note how the block went; it is skipped where the client is not there or not able."""
        key = (client.name, transport, case)
        why_not = client.missing() or client.unable.get(case, "")
        self.verdicts[key] = why_not or FAILED
        if why_not:
            pytest.skip(why_not)
        self.versions.setdefault(client.name, client.version())
        yield
        self.verdicts[key] = OK

    def markdown(self) -> str:
        """One table per transport: a row for each case, a column for each client; then why cells
        are empty.
        """
        transports = list(dict.fromkeys(transport for _, transport, _ in self.verdicts))
        parts = [part for transport in transports for part in self._transport(transport)]
        return "\n".join([*parts, *self._reasons()]) + "\n"

    def _transport(self, transport: str) -> Iterator[str]:
        clients = list(dict.fromkeys(c for c, t, _ in self.verdicts if t == transport))
        cases = list(dict.fromkeys(n for _, t, n in self.verdicts if t == transport))
        titles = [f"{client} {self.versions.get(client, '')}".strip() for client in clients]
        yield f"## {transport}\n"
        yield "| | " + " | ".join(titles) + " |"
        yield "|---" * (len(clients) + 1) + "|"
        for case in cases:
            cells = [self._cell(client, transport, case) for client in clients]
            yield f"| {case} | " + " | ".join(cells) + " |"
        yield ""

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
