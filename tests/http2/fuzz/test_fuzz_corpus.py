"""What fuzzing found worth keeping is played again, and a little that is new."""

import random
from pathlib import Path

import pytest
from tests.http2.fuzz.driver import play_all_ways
from tests.http2.fuzz.mutate import mutate
from tests.http2.fuzz.seeds import seeds

CORPUS = sorted(path for path in (Path(__file__).parent / "corpus").iterdir())
ROUNDS = 2_000


def test_every_input_of_the_corpus_is_taken_well() -> None:
    """The core keeps its promises on each, in whatever pieces it comes."""
    for path in CORPUS:
        try:
            play_all_ways(path.read_bytes())
        except Exception as error:
            error.add_note(f"input {path.name}")
            raise


def test_every_seed_is_taken_well() -> None:
    """The conversations that fuzzing starts from."""
    for raw in seeds():
        play_all_ways(raw)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_changed_conversations_are_taken_well(seed: int) -> None:
    """Seeds and corpus, changed frame by frame, always in the same way."""
    chance = random.Random(seed)
    inputs = [*seeds(), *(path.read_bytes() for path in CORPUS)]

    for _ in range(ROUNDS):
        raw = mutate(chance.choice(inputs), chance.choice(inputs), chance)
        try:
            play_all_ways(raw)
        except Exception as error:
            error.add_note(f"input {raw.hex()}")
            raise
