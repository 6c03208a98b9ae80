"""Stop strings: the first that is complete ends a text, and no more is held back than must be."""

from hypothesis import given
from hypothesis import strategies as st

from penstock_runtime.llm.stops import StopMatcher

_text = st.text("ab", max_size=12)
_stops = st.lists(st.text("ab", min_size=1, max_size=4), max_size=3)


def _expected(text: str, stops: list[str], include: bool) -> tuple[str, str | None]:
    """By looking at every end."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            stop = max(found, key=len)
            return text[: end if include else end - len(stop)], stop
    return text, None


@given(st.lists(_text, max_size=6), _stops, st.booleans())
def test_the_stop_that_ends_first_ends_the_text_however_it_comes_in_pieces(
    pieces: list[str], stops: list[str], include: bool
) -> None:
    matcher = StopMatcher(stops, include)
    given_away, stop = "", None

    for piece in pieces:
        match = matcher.push(piece)
        given_away += match.text
        stop = match.stop
        if stop is not None:
            break
    given_away += matcher.flush()

    assert (given_away, stop) == _expected("".join(pieces), stops, include)


@given(st.lists(_text, max_size=6), _stops)
def test_what_is_held_back_is_the_longest_end_that_may_become_a_stop(
    pieces: list[str], stops: list[str]
) -> None:
    matcher = StopMatcher(stops)
    text = ""

    for piece in pieces:
        text += piece
        if matcher.push(piece).stop is not None:
            return

        ends = [text[place:] for place in range(len(text) + 1)]
        held = max(
            (end for end in ends if any(stop.startswith(end) for stop in stops)),
            key=len,
            default="",
        )
        assert matcher.held == held


def test_a_stop_that_does_not_count_yet_ends_nothing() -> None:
    matcher = StopMatcher(["ab"])

    early = matcher.push("xab", counts=False)
    late = matcher.push("aab")

    assert (early.text, early.stop) == ("xab", None)
    assert (late.text, late.stop) == ("a", "ab")
