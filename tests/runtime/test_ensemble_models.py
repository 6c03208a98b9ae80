"""Laws of ensembles as a repository starts them, out of models that serve in this process."""

import json
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import pytest
from tests.runtime.model_folders import HEADER

from penstock_runtime.assembly import open_repository
from penstock_runtime.dispatch import Dispatch
from penstock_runtime.ensemble import EnsembleModel
from penstock_runtime.errors import FailedPrecondition, PenstockError
from penstock_runtime.model import Model
from penstock_runtime.repository.options import ControlMode, RepositoryOptions
from penstock_runtime.repository.overrides import LoadOverrides
from penstock_runtime.repository.repository import ModelRepository
from penstock_runtime.request import InferRequest
from penstock_runtime.stream import ResponseStream
from penstock_runtime.tensor import tensor

ADDS = """
@model
def adds(X: FP32[-1]) -> FP32[-1].named("Y"):
    return X + {number}
"""


def write(root: Path, name: str, number: int) -> None:
    """A model that adds a number."""
    folder = root / name / "1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(HEADER + ADDS.format(number=number))


def config(*steps: str, **fields: Any) -> str:
    """An ensemble whose steps are executed one after the other; "space/name" has a namespace."""
    made = []
    for index, text in enumerate(steps):
        space, _, name = text.rpartition("/")
        step = {"model_name": name, "input_map": {"X": f"t{index}"}, "model_version": -1}
        step["output_map"] = {"Y": f"t{index + 1}" if index < len(steps) - 1 else "Y"}
        step["input_map"] = {"X": f"t{index}" if index else "X"}
        made.append({**step, "model_namespace": space} if space else step)
    one = {"data_type": "TYPE_FP32", "dims": [-1]}
    return json.dumps(
        {
            "platform": "ensemble",
            "input": [{"name": "X", **one}],
            "output": [{"name": "Y", **one}],
            "ensemble_scheduling": {"step": made},
            **fields,
        }
    )


def write_ensemble(root: Path, name: str, *steps: str, **fields: Any) -> None:
    """One that is made of these."""
    (root / name / "1").mkdir(parents=True, exist_ok=True)
    (root / name / "config.json").write_text(config(*steps, **fields))


def opened(*roots: Path, **more: Any) -> ModelRepository[Model]:
    """A repository that serves everything in these roots."""
    options = RepositoryOptions(
        roots=roots,
        control_mode=ControlMode.EXPLICIT,
        startup_models=("*",),
        settle_seconds=0,
        load_settle_seconds=0,
        **more,
    )
    return open_repository(options)


def ask(repository: ModelRepository[Model], name: str, value: float = 0) -> float:
    """What a model makes of a number."""
    stream = ResponseStream()
    dispatch = Dispatch()
    dispatch.bind(repository.get)
    array = np.array([value], np.float32)
    dispatch.infer(InferRequest(name, (tensor("X", array),)), stream)
    (response,) = stream.collect(10)
    return float(response.outputs[0].numpy()[0])


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[ModelRepository[Model]]:
    """`one` and `two` add these, `three` is made of them, and `six` of `three`."""
    write(tmp_path, "one", 1)
    write(tmp_path, "two", 2)
    write_ensemble(tmp_path, "three", "one", "two")
    write_ensemble(tmp_path, "six", "three", "three")
    made = opened(tmp_path)
    made.start()
    yield made
    made.stop(10)


def test_ensembles_are_made_of_ensembles(repository: ModelRepository[Model]) -> None:
    """They hold nothing themselves, and are healthy while all that they are made of is."""
    six = repository.get("six")
    before = six.healthy

    answer = ask(repository, "six")
    repository.unload("two")

    assert answer == 6
    assert isinstance(six, EnsembleModel)
    assert (six.memory_bytes(), six.instances) == ({}, ())
    assert before
    assert not six.healthy
    assert not repository.get("three").healthy
    assert repository.get("one").healthy


def test_loads_tell_of_everything_an_answer_is_made_of(
    repository: ModelRepository[Model], tmp_path: Path
) -> None:
    """However deep; other models do not count."""
    before = {name: repository.get(name).loads for name in ("one", "three", "six")}

    write(tmp_path, "two", 3)
    repository.load("two")

    after = {name: repository.get(name).loads for name in before}
    assert after["one"] == before["one"]
    assert after["three"] != before["three"]
    assert after["six"] != before["six"]


def test_a_circle_that_two_loads_made_together_ends_at_a_depth(
    repository: ModelRepository[Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each was checked while the other was something else."""
    monkeypatch.setattr(repository._exchange, "_check", None)
    monkeypatch.setattr("penstock_runtime.ensemble.circle", lambda *_: ())

    repository.load("three", LoadOverrides(config("six")))

    assert not repository.get("six").healthy
    assert repository.get("six").loads
    with pytest.raises(FailedPrecondition, match="at most 16 are allowed: does it contain itself"):
        ask(repository, "six")


def test_a_circle_that_what_serves_would_make_is_refused(
    repository: ModelRepository[Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the files say nothing of it."""
    monkeypatch.setattr(repository._exchange, "_check", None)

    with pytest.raises(PenstockError, match="'three' contains itself: three -> six -> three"):
        repository.load("three", LoadOverrides(config("six")))

    assert ask(repository, "six") == 6


def test_a_step_may_name_one_version(tmp_path: Path) -> None:
    """Which must serve; the others do not matter."""
    write(tmp_path, "one", 1)
    source = (tmp_path / "one" / "1" / "model.py").read_text()
    (tmp_path / "one" / "2").mkdir()
    (tmp_path / "one" / "2" / "model.py").write_text(source.replace("+ 1", "+ 10"))
    (tmp_path / "one" / "config.json").write_text('{"version_policy": {"all": {}}}')
    for name, version in (("first", 1), ("latest", -1), ("ninth", 9)):
        text = config("one").replace('"model_version": -1', f'"model_version": {version}')
        write_ensemble(tmp_path, name)
        (tmp_path / name / "config.json").write_text(text)
    repository = opened(tmp_path)

    (failure,) = repository.start()

    answers = [ask(repository, name) for name in ("first", "latest")]
    repository.stop(10)
    assert answers == [1, 10]
    assert failure.name == "ninth"
    assert "needs model 'one' version 9 for step 0, which does not serve" in failure.reason


def test_a_step_is_looked_for_in_its_namespace_and_in_the_ensembles_own(tmp_path: Path) -> None:
    """And then everywhere, as a name that only one repository has is served as it is."""
    red, blue = tmp_path / "red", tmp_path / "blue"
    for number, root in ((1, red), (10, blue)):
        write(root, "adds", number)
        write_ensemble(root, "twice", "adds", "adds")
    write(blue, "alone", 100)
    write_ensemble(red, "mixed", "blue/adds", "red/adds", "alone")
    repository = opened(red, blue, namespaces=True)

    failures = repository.start()

    answers = [ask(repository, name) for name in ("red::twice", "blue::twice", "mixed")]
    repository.stop(10)
    assert failures == ()
    assert answers == [2, 20, 111]


def test_a_cache_cannot_be_had_by_an_ensemble_that_a_step_makes_decoupled(tmp_path: Path) -> None:
    """As by any decoupled model."""
    folder = tmp_path / "many" / "1"
    folder.mkdir(parents=True)
    code = "@model\ndef many(X: FP32[-1]) -> Iterator[FP32[-1].named('Y')]:\n    yield X\n"
    (folder / "model.py").write_text(HEADER + code)
    write_ensemble(tmp_path, "kept", "many", response_cache={"enable": True})
    repository = opened(tmp_path)

    (failure,) = repository.start()
    repository.stop(10)

    assert failure.name == "kept"
    assert "response_cache: cannot be enabled for a decoupled model" in failure.reason


def test_a_torch_model_that_works_in_place_changes_nothing_for_others(tmp_path: Path) -> None:
    """What a step beside it reads, and what the caller gets, is what was made."""
    pytest.importorskip("torch")
    folder = tmp_path / "in_place" / "1"
    folder.mkdir(parents=True)
    code = """
    import torch
    @model
    class InPlace(torch.nn.Module):
        def forward(self, X: FP32[-1]) -> FP32[-1].named("Y"):
            return X.zero_()
    """
    (folder / "model.py").write_text(HEADER + dedent(code))
    write(tmp_path, "one", 1)
    steps = [
        {"model_name": "one", "input_map": {"X": "X"}, "output_map": {"Y": "MADE"}},
        {"model_name": "in_place", "input_map": {"X": "MADE"}, "output_map": {"Y": "ZERO"}},
        {"model_name": "in_place", "input_map": {"X": "X"}, "output_map": {"Y": "OTHER"}},
    ]
    outputs = [
        {"name": name, "data_type": "TYPE_FP32", "dims": [-1]} for name in ("MADE", "ZERO", "OTHER")
    ]
    write_ensemble(tmp_path, "both", ensemble_scheduling={"step": steps}, output=outputs)
    repository = opened(tmp_path)
    failures = repository.start()
    given = np.array([5], np.float32)
    stream = ResponseStream()

    repository.get("both").submit(InferRequest("both", (tensor("X", given),)), stream)

    (response,) = stream.collect(10)
    repository.stop(10)
    assert failures == ()
    assert [float(output.numpy()[0]) for output in response.outputs] == [6, 0, 0]
    assert given.tolist() == [5]
