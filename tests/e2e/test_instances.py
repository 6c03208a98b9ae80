"""Instances as tritonclient sees them: they take turns over resources, and their number changes
while the model serves.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tests.e2e.running import Running, ServerThread, options
from tritonclient.utils import InferenceServerException

CONFIG = """
backend: "python"
max_batch_size: 4
{batching}
input [ {{ name: "X" data_type: TYPE_FP32 dims: [ 1 ] }} ]
output [ {{ name: "Y" data_type: TYPE_FP32 dims: [ 1 ] }} ]
instance_group [ {groups} ]
"""
CODE = """
import os, time
from pathlib import Path
import numpy as np

BOOK = Path({book!r})

def note(text):
    with BOOK.open("a") as file:
        file.write(text + "\\n")

note("loaded")

class Model:
    def load(self): note("made")
    def unload(self): note("ended")
    def predict(self, X):
        note("begin")
        time.sleep(0.002)
        note("end")
        return {{"Y": X * 2}}
"""


def group(count: int, needs: str = "", priority: int = 0) -> str:
    """An instance group in host memory; `needs` are resources."""
    limiter = f"rate_limiter {{ {needs} priority: {priority} }}" if needs else ""
    return f"{{ kind: KIND_CPU count: {count} {limiter} }}"


def resource(name: str, count: int) -> str:
    """One resource of an instance."""
    return f'resources {{ name: "{name}" count: {count} }}'


class Folder:
    """A repository of models that keep a book of what happens to them."""

    def __init__(self, root: Path) -> None:
        self.root = root / "models"
        self._books = root

    def write(self, name: str, groups: str, batching: str = "") -> None:
        """A model's folder; its code only once."""
        version = self.root / name / "1"
        version.mkdir(parents=True, exist_ok=True)
        staged = self.root / name / ".config.pbtxt.new"
        staged.write_text(CONFIG.format(groups=groups, batching=batching))
        os.replace(staged, self.root / name / "config.pbtxt")
        if not (version / "model.py").exists():
            code = CODE.format(book=str(self._books / "shared"))
            (version / "model.py").write_text(code)

    def book(self) -> list[str]:
        """What happened to all of them."""
        return (self._books / "shared").read_text().split()

    def turn(self) -> None:
        """A new page."""
        (self._books / "shared").write_text("")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """The models of these tests."""
    made = Folder(tmp_path_factory.mktemp("instances"))
    for name in ("first", "second"):
        made.write(name, group(2, resource("R1", 2)))
    made.write("greedy", group(1, resource("R1", 4)))
    made.write("plain", group(1), "dynamic_batching { }")
    return made


@pytest.fixture(scope="module")
def running(folder: Folder) -> Iterator[Running]:
    """A server that limits rates, with three of resource R1."""
    settings = options(
        [folder.root],
        model_control_mode="explicit",
        load_model=("first", "second", "plain"),
        rate_limit="execution_count",
        rate_limit_resource=("R1:3",),
    )
    with ServerThread(settings) as made:
        yield made


@pytest.fixture
def client(running: Running) -> Iterator[Any]:
    """A blocking client of it."""
    with triton.InferenceServerClient(running.target) as made:
        yield made


def ask(client: Any, model: str, value: float) -> float:
    """Twice the value."""
    tensor = triton.InferInput("X", [1, 1], "FP32")
    tensor.set_data_from_numpy(np.array([[value]], np.float32))
    return float(client.infer(model, [tensor]).as_numpy("Y")[0, 0])


def in_threads(*work: Callable[[], object]) -> None:
    """Do all of it at once, and raise what went wrong."""
    problems: list[BaseException] = []

    def guarded(one: Callable[[], object]) -> None:
        try:
            one()
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=guarded, args=(one,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert problems == []


def until(condition: Callable[[], bool]) -> None:
    """Wait for what happens behind the server, for half a minute at most."""
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.002)


def overlap(book: list[str]) -> int:
    """How many executions there were at most at once."""
    now = most = 0
    for line in book:
        now += {"begin": 1, "end": -1}.get(line, 0)
        most = max(most, now)
    return most


def test_instances_of_all_models_take_turns(client: Any, folder: Folder) -> None:
    """Four instances in two models need two of three each: one executes at a time."""
    folder.turn()

    def calls(model: str) -> None:
        for i in range(10):
            assert ask(client, model, i) == 2 * i

    in_threads(*(partial(calls, model) for model in ("first", "second") for _ in range(2)))
    book = folder.book()

    assert book.count("begin") == book.count("end") == 40
    assert overlap(book) == 1


def test_a_model_that_needs_more_than_there_is_does_not_load(client: Any) -> None:
    """The others go on; the index says why."""
    with pytest.raises(InferenceServerException) as refused:
        client.load_model("greedy")

    assert 'Resource count for "R1" is limited to 3' in str(refused.value)
    assert "the minimum required count is 4" in str(refused.value)
    assert ask(client, "first", 2) == 4


def test_resources_come_back_with_an_unload(client: Any, folder: Folder) -> None:
    """What is unloaded under load holds nothing any more."""
    client.unload_model("second")
    folder.turn()

    in_threads(*[partial(ask, client, "first", 1)] * 8)
    client.load_model("second")

    assert folder.book().count("begin") == 8
    assert ask(client, "second", 3) == 6


def test_instances_are_added_and_removed_under_load(client: Any, folder: Folder) -> None:
    """No request fails, nothing is loaded again, statistics and readiness go on."""
    folder.turn()
    before = client.get_inference_statistics("plain").model_stats[0].inference_count
    over = threading.Event()
    asked = [0] * 4

    def call(number: int) -> None:
        while not over.is_set():
            value = float(asked[number])
            assert ask(client, "plain", value) == 2 * value
            asked[number] += 1

    def change() -> None:
        try:
            for count in (3, 1, 4, 2):
                folder.write("plain", group(count), "dynamic_batching { }")
                client.load_model("plain")
                assert client.is_model_ready("plain")
                config = client.get_model_config("plain").config
                assert [one.count for one in config.instance_group] == [count]
                goal = sum(asked) + 8
                until(lambda goal=goal: sum(asked) > goal)  # type: ignore[misc]
        finally:
            over.set()

    in_threads(*(partial(call, number) for number in range(4)), change)
    until(lambda: folder.book().count("ended") == 4)
    book = folder.book()
    stats = client.get_inference_statistics("plain").model_stats[0]

    assert book.count("loaded") == 0
    assert (book.count("made"), book.count("ended")) == (2 + 3, 2 + 2)
    assert stats.inference_count - before == sum(asked)
    assert client.get_model_repository_index().models


def test_a_change_that_cannot_be_leaves_the_instances(client: Any, folder: Folder) -> None:
    """A group that this machine has no place for is refused, and the old ones serve."""
    folder.write("plain", "{ kind: KIND_GPU gpus: [ 77 ] }", "dynamic_batching { }")

    with pytest.raises(InferenceServerException, match="load failed for model 'plain'"):
        client.load_model("plain")

    index = {m.name: (m.state, m.reason) for m in client.get_model_repository_index().models}
    assert ask(client, "plain", 4) == 8
    assert index["plain"][0] == "READY"
    assert "reload failed" in index["plain"][1]


def test_a_group_that_asks_for_resources_is_reloaded(client: Any, folder: Folder) -> None:
    """Whether a model takes turns is chosen at its load, and this one does from now on."""
    folder.turn()
    folder.write("plain", group(2, resource("R1", 2)), "dynamic_batching { }")

    client.load_model("plain")
    in_threads(*(partial(ask, client, m, 1) for m in ("plain", "first") for _ in range(6)))

    assert "loaded" in folder.book()
    assert overlap(folder.book()) == 1
