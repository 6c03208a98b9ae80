"""Laws of a reload in which nothing but the instance groups has changed: the model goes on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.runtime.repository_fakes import (
    FakeModel,
    Workshop,
    make_repository,
    state,
    write_model,
)

from penstock_runtime.backends.base import Backend, ModelSource
from penstock_runtime.config import ModelConfig
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.repository.generation import LoadFailed
from penstock_runtime.repository.overrides import LoadOverrides
from penstock_runtime.repository.repository import ModelRepository


class Flexible(FakeModel):
    """A model whose instances may change; `refuses` is raised, or None given, instead."""

    log: list[str]
    refuses: Exception | None = None
    reloads = False

    def regroup(self, config: ModelConfig) -> "Preparation | None":
        """As `Model.regroup`."""
        if self.refuses is not None:
            raise self.refuses
        self.log.append(f"prepared {self.version}")
        return None if self.reloads else Preparation(self, config)


class Preparation:
    """A change that is kept in the log."""

    def __init__(self, model: Flexible, config: ModelConfig) -> None:
        self._model = model
        self._config = config

    def settle(self) -> None:
        """The model has the new configuration."""
        self._model.config = self._config
        self._model.log.append(f"settled {self._model.version}")

    def undo(self) -> None:
        """Nothing has changed."""
        self._model.log.append(f"undone {self._model.version}")


class FlexibleWorkshop(Workshop):
    """Starts models whose instances may change."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[str] = []
        self.made: dict[int, Flexible] = {}

    def __call__(self, source: ModelSource, backend: Backend) -> FakeModel:
        plain = super().__call__(source, backend)
        self.alive.discard(plain)
        model = Flexible(source, plain.text, self)
        model.log = self.log
        self.alive.add(model)
        self.made[source.version] = model
        return model


def groups(*counts: int, **more: object) -> str:
    """A configuration with these groups and all versions."""
    listed = [{"count": count} for count in counts]
    return json.dumps({"version_policy": {"all": {}}, "instance_group": listed, **more})


@pytest.fixture
def workshop() -> FlexibleWorkshop:
    """One for each test."""
    return FlexibleWorkshop()


def served(workshop: Workshop, root: Path) -> ModelRepository[FakeModel]:
    """A repository that serves versions 1 and 2 of model m with one instance each."""
    write_model(root, "m", {1: "one", 2: "two"}, groups(1))
    repository = make_repository(workshop, root)
    repository.load("m")
    return repository


def configure(root: Path, text: str) -> None:
    """Write another configuration and nothing else."""
    (root / "m" / "config.json").write_text(text)


def test_the_model_goes_on_with_other_instances(workshop: FlexibleWorkshop, tmp_path: Path) -> None:
    """Nothing is loaded, nothing is retired, and the configuration is the new one."""
    repository = served(workshop, tmp_path)
    before = repository.models()

    configure(tmp_path, groups(3, 2))
    repository.load("m")
    repository.stop(5)

    assert workshop.log == ["prepared 1", "prepared 2", "settled 1", "settled 2"]
    assert [model.text for model in before] == ["one", "two"]
    assert len(workshop.started) == 2
    assert [(g.name, g.count) for g in before[0].config.instance_group] == [("m_0", 3), ("m_1", 2)]


def test_what_is_read_again_unchanged_is_left_alone(
    workshop: FlexibleWorkshop, tmp_path: Path
) -> None:
    """After the change the new configuration is what serves."""
    repository = served(workshop, tmp_path)
    configure(tmp_path, groups(3))
    repository.load("m")
    workshop.log.clear()

    repository.load("m")
    models = repository.models()
    repository.stop(5)

    assert workshop.log == []
    assert len(models) == 2
    assert len(workshop.started) == 2


def test_versions_whose_files_changed_are_loaded(
    workshop: FlexibleWorkshop, tmp_path: Path
) -> None:
    """Each version for itself."""
    repository = served(workshop, tmp_path)

    configure(tmp_path, groups(2))
    (tmp_path / "m" / "2" / "model.txt").write_text("another two")
    repository.load("m")
    texts = [model.text for model in repository.models()]
    repository.stop(5)

    assert texts == ["one", "another two"]
    assert workshop.log == ["prepared 1", "settled 1"]


@pytest.mark.parametrize("more", [{"max_batch_size": 4}, {"parameters": {"a": {}}}])
def test_whatever_else_changes_takes_a_reload(
    workshop: FlexibleWorkshop, tmp_path: Path, more: dict[str, object]
) -> None:
    """The instances are not all that differs."""
    repository = served(workshop, tmp_path)

    configure(tmp_path, groups(2, **more))
    repository.load("m")
    repository.stop(5)

    assert workshop.log == []
    assert len(workshop.started) == 4


def test_a_model_that_cannot_change_in_place_is_loaded(
    workshop: FlexibleWorkshop, tmp_path: Path
) -> None:
    """It says so, and the new one takes over."""
    repository = served(workshop, tmp_path)
    workshop.made[1].reloads = True
    old = repository.models()

    configure(tmp_path, groups(2))
    repository.load("m")
    new = repository.models()
    repository.stop(5)

    assert new[0] is not old[0]
    assert new[1] is old[1]
    assert old[0].stopped.is_set()


def test_a_model_that_is_not_healthy_is_loaded(workshop: FlexibleWorkshop, tmp_path: Path) -> None:
    """A dead instance is no reason to keep the rest."""
    repository = served(workshop, tmp_path)
    workshop.made[1].healthy = False

    configure(tmp_path, groups(2))
    repository.load("m")
    repository.stop(5)

    assert workshop.log == ["prepared 2", "settled 2"]


def test_all_versions_change_or_none(workshop: FlexibleWorkshop, tmp_path: Path) -> None:
    """What failed is told, what was prepared is undone, and everything serves as before."""
    repository = served(workshop, tmp_path)
    workshop.made[2].refuses = InvalidArgument("the GPU is full")
    before = repository.models()

    configure(tmp_path, groups(2))
    with pytest.raises(LoadFailed, match="the GPU is full"):
        repository.load("m")
    after = repository.models()
    index = state(repository, "m")

    assert workshop.log == ["prepared 1", "undone 1"]
    assert after == before
    assert not any(model.stopped.is_set() for model in before)
    assert index["1"] == ("READY", "")
    assert index["2"][0] == "READY"
    assert "the GPU is full" in index["2"][1]
    repository.stop(5)


def test_groups_that_are_not_in_order_are_refused(
    workshop: FlexibleWorkshop, tmp_path: Path
) -> None:
    """As at a load; the model is not even asked."""
    repository = served(workshop, tmp_path)

    configure(tmp_path, groups(5000))
    with pytest.raises(LoadFailed, match=r"instance_group\[0\].count"):
        repository.load("m")
    repository.stop(5)

    assert workshop.log == []


def test_groups_that_are_left_out_are_the_usual_ones(
    workshop: FlexibleWorkshop, tmp_path: Path
) -> None:
    """One instance, unless the model's code says another number."""
    repository = served(workshop, tmp_path)

    configure(tmp_path, '{"version_policy": {"all": {}}}')
    repository.load("m")
    config = repository.models()[0].config
    repository.stop(5)

    assert [(g.name, g.count) for g in config.instance_group] == [("m_0", 1)]
    assert "settled 1" in workshop.log


def test_a_callers_configuration_may_do_it_too(workshop: FlexibleWorkshop, tmp_path: Path) -> None:
    """It is the same way, whoever brings the configuration."""
    repository = served(workshop, tmp_path)

    repository.load("m", LoadOverrides(config_json=groups(4)))
    config = repository.models()[0].config
    repository.stop(5)

    assert config.instance_group[0].count == 4
    assert len(workshop.started) == 2


def test_a_server_that_goes_down_meanwhile_undoes_it(
    workshop: FlexibleWorkshop, tmp_path: Path
) -> None:
    """What cannot be published is not settled, and no model is stopped twice."""
    repository = served(workshop, tmp_path)
    model = workshop.made[2]

    def stop_first(config: ModelConfig) -> Preparation:
        repository.stop(5)
        return Preparation(model, config)

    model.regroup = stop_first  # type: ignore[method-assign]
    configure(tmp_path, groups(2))
    with pytest.raises(Exception, match="shutting down"):
        repository.load("m")

    assert workshop.log == ["prepared 1", "undone 1", "undone 2"]
    assert not workshop.alive


def test_a_configuration_keeps_what_the_load_completed(
    workshop: FlexibleWorkshop, tmp_path: Path
) -> None:
    """Only the groups are taken from the new text."""
    repository = served(workshop, tmp_path)
    completed = replace(workshop.made[1].config, platform="completed")
    workshop.made[1].config = completed

    configure(tmp_path, groups(2))
    repository.load("m")
    config = repository.get("m", "1").config
    repository.stop(5)

    assert config.platform == "completed"
    assert config.instance_group[0].count == 2
