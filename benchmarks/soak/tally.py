"""What became of the calls, by kind. Pure."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

MOST_TEXTS = 20


@dataclass(slots=True)
class Tally:
    """Calls by kind: answered as they had to be, answered otherwise, and ended on purpose.

    `executed` counts the answers of the model whose calls are never ended on purpose, `probes` are
    the latencies of the steady caller in ns, `texts` the first things that went wrong.
    """

    right: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    executed: int = 0
    probes: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def judge(self, kind: str, problem: str, calls: int = 1) -> None:
        """These calls went right, or there is a problem with them."""
        if not problem:
            self.right[kind] += calls
            return
        self.wrong[kind] += 1
        if len(self.texts) < MOST_TEXTS:
            self.texts.append(f"{kind}: {problem[:400]}")

    @property
    def calls(self) -> int:
        """All calls that had an answer or were ended."""
        return self.right.total() + self.wrong.total() + self.ended.total()


def merged(tallies: Iterable[Tally]) -> Tally:
    """The sum of several."""
    total = Tally()
    for one in tallies:
        total.right.update(one.right)
        total.wrong.update(one.wrong)
        total.ended.update(one.ended)
        total.executed += one.executed
        total.probes += one.probes
        total.texts += one.texts
    return total


def rows(tally: Tally) -> list[tuple[str, str, str, str]]:
    """Kind, right, ended on purpose, wrong: a table."""
    kinds = sorted({*tally.right, *tally.wrong, *tally.ended})
    return [
        (kind, str(tally.right[kind]), str(tally.ended[kind]), str(tally.wrong[kind]))
        for kind in kinds
    ]
