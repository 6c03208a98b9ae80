"""Laws of repository agents: they act before a model is loaded and are told when it is gone."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.runtime.repository_fakes import (
    FakeFinder,
    FakeModel,
    Workshop,
    make_repository,
    until,
    write_model,
)

from penstock_runtime.errors import InvalidArgument, PenstockError
from penstock_runtime.repository.agents import AgentRequest, Agents
from penstock_runtime.repository.index import scan_model
from penstock_runtime.repository.loader import Loader
from penstock_runtime.repository.repository import ModelRepository

GOOD = hashlib.sha256(b"one").hexdigest()


def config(*agents: tuple[str, Mapping[str, str]]) -> str:
    block = [{"name": name, "parameters": dict(parameters)} for name, parameters in agents]
    return json.dumps({"model_repository_agents": {"agents": block}})


def checksum(**digests: str) -> str:
    return config(("checksum", {key.replace("__", ":"): value for key, value in digests.items()}))


class Notes:
    """An agent that writes down what it is asked, and may put another folder in the model's
    place.
    """

    def __init__(self, other: Path | None = None, refuses: bool = False) -> None:
        self.other = other
        self.refuses = refuses
        self.loads: list[AgentRequest] = []
        self.gone: list[AgentRequest] = []

    def load(self, request: AgentRequest) -> Path | None:
        self.loads.append(request)
        if self.refuses:
            raise InvalidArgument("not today")
        return self.other

    def unloaded(self, request: AgentRequest) -> None:
        self.gone.append(request)


def build(root: Path, workshop: Workshop, **agents: Notes) -> FakeModel:
    folder = scan_model(root, "m")
    assert folder is not None
    loader = Loader(FakeFinder(), workshop, agents=Agents(agents))
    return loader.build(folder, loader.read(folder), 1)


# -- the seam ------------------------------------------------------------------------------------


def test_agents_act_in_their_order_and_let_go_in_the_other(tmp_path: Path) -> None:
    """Each on what the one before it left; with its own options."""
    write_model(tmp_path, "m", config=config(("a", {"x": "1"}), ("b", {})))
    elsewhere = write_model(tmp_path / "elsewhere", "m", {1: "fetched"})
    first, second = Notes(other=elsewhere), Notes()

    model = build(tmp_path, Workshop(), a=first, b=second)
    model.stop()

    assert model.text == "fetched"
    assert first.loads[0].parameters == {"x": "1"}
    assert first.loads[0].root == (tmp_path / "m").resolve()
    assert second.loads[0].root == elsewhere
    assert second.gone == second.loads
    assert first.gone == first.loads


def test_an_agent_that_refuses_keeps_the_model_out_and_those_before_let_go(tmp_path: Path) -> None:
    """Nothing that was fetched stays behind."""
    write_model(tmp_path, "m", config=config(("a", {}), ("b", {})))
    first, second = Notes(), Notes(refuses=True)
    workshop = Workshop()

    with pytest.raises(InvalidArgument, match="not today"):
        build(tmp_path, workshop, a=first, b=second)

    assert first.gone == first.loads
    assert second.gone == []
    assert not workshop.started


def test_a_load_that_fails_after_its_agents_is_told_to_them(tmp_path: Path) -> None:
    """As if it had been unloaded."""
    write_model(tmp_path, "m", {1: "corrupt"}, config=config(("a", {})))
    agent = Notes()

    with pytest.raises(PenstockError):
        build(tmp_path, Workshop(), a=agent)

    assert agent.gone == agent.loads


def test_an_unknown_agent_is_named_with_those_that_there_are(tmp_path: Path) -> None:
    """Nothing is looked for on disk."""
    write_model(tmp_path, "m", config=config(("../evil", {})))

    with pytest.raises(InvalidArgument, match=r"agent '\.\./evil', expected one of a"):
        build(tmp_path, Workshop(), a=Notes())


def test_a_model_without_agents_never_meets_one(tmp_path: Path) -> None:
    """Most models."""
    write_model(tmp_path, "m")
    agent = Notes()

    build(tmp_path, Workshop(), a=agent)

    assert agent.loads == []


# -- the checksum agent --------------------------------------------------------------------------


def served(root: Path, workshop: Workshop) -> ModelRepository[FakeModel]:
    repository = make_repository(workshop, root, startup=("*",))
    repository.start()
    return repository


def test_files_that_are_what_they_should_be_are_loaded(tmp_path: Path) -> None:
    """With any of the algorithms, in any case."""
    md5 = hashlib.md5(b"one", usedforsecurity=False).hexdigest()
    write_model(
        tmp_path,
        "m",
        config=config(
            ("checksum", {"SHA256:1/model.txt": GOOD.upper(), "md5:1/model.txt": f" {md5}\n"})
        ),
    )

    assert served(tmp_path, Workshop()).get("m").text == "one"


@pytest.mark.parametrize(
    ("key", "digest", "told"),
    [
        ("SHA256:1/model.txt", "0" * 64, f"SHA256 of '1/model.txt' is {GOOD}, expected 000"),
        ("SHA256:1/model.txt", "", "expected"),
        ("SHA256:2/model.txt", GOOD, "'2/model.txt' is missing"),
        ("SHA256:1", GOOD, "'1' is missing"),
        ("CRC:1/model.txt", GOOD, "'CRC' is no algorithm, expected one of MD5, SHA256, SHA512"),
        ("SHA256:../x", GOOD, "is no path below its folder"),
        ("SHA256:/etc/passwd", GOOD, "is no path below its folder"),
        ("SHA256:", GOOD, "'' is no path below its folder"),
        ("SHA256:1/\x00", GOOD, "is no path below its folder"),
    ],
)
def test_a_model_whose_files_are_others_does_not_serve(
    tmp_path: Path, key: str, digest: str, told: str
) -> None:
    """The reason says which file, what was found and what was expected."""
    write_model(tmp_path, "m", config=config(("checksum", {key: digest})))
    workshop = Workshop()

    repository = make_repository(workshop, tmp_path, startup=("*",))
    (failed,) = repository.start()

    assert told in failed.reason
    assert not workshop.started


def test_a_checksum_without_digests_is_refused(tmp_path: Path) -> None:
    """It would promise what it does not do."""
    write_model(tmp_path, "m", config=checksum())

    (failed,) = make_repository(Workshop(), tmp_path, startup=("*",)).start()

    assert "no parameters, expected ALGORITHM:path" in failed.reason


def test_a_damaged_reload_leaves_the_old_version_serving(tmp_path: Path) -> None:
    """As any other load that fails."""
    folder = write_model(tmp_path, "m", config=checksum(**{"SHA256__1/model.txt": GOOD}))
    workshop = Workshop()
    repository = served(tmp_path, workshop)
    (folder / "1" / "model.txt").write_text("damaged")

    with pytest.raises(InvalidArgument, match="SHA256 of"):
        repository.load("m")

    assert repository.get("m").text == "one"
    repository.unload("m")
    until(lambda: not workshop.alive)
