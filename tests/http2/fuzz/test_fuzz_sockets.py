"""Changed conversations over real sockets: whatever handlers run meanwhile, nothing is left."""

import random

import pytest
from tests.http2.frames import PREFACE
from tests.http2.fuzz.mutate import mutate
from tests.http2.fuzz.seeds import seeds
from tests.http2.loops import FACTORIES
from tests.http2.raw import RawClient
from tests.http2.under_attack import LOOP, attacked

CONNECTIONS = 150
PATHS = (b"/s/Echo", b"/q/Echo", b"/s/Hang", b"/q/Hang", b"/s/Flood", b"/s/Drain", b"/s/Doub")


@pytest.mark.parametrize("loop_name", FACTORIES)
@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_left_of_what_peers_made_up(
    seed: int, loop_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A neighbour's calls go on, the loop hears of no error, every call and task ends."""
    monkeypatch.setitem(LOOP, "loop_name", loop_name)
    chance = random.Random(seed)
    inputs = [raw for raw in seeds() if PREFACE in raw]

    with attacked(stream_stall_s=0.5) as served:
        for _ in range(CONNECTIONS):
            raw = mutate(chance.choice(inputs), chance.choice(inputs), chance)[2:]
            raw = raw.replace(b"/s/Echo", chance.choice(PATHS))
            with RawClient(served.address) as client:
                client.socket.settimeout(0.01)
                cut = chance.randrange(len(raw) + 1)
                client.send(raw[:cut])
                if chance.random() < 0.5:
                    heard(client)
                client.send(raw[cut:])
                heard(client)


def heard(client: RawClient) -> None:
    """Read for as long as the server says something."""
    try:
        for _ in range(50):
            if client.read() is None:
                return
    except AssertionError:
        return
