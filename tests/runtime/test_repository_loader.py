"""Laws of how a folder becomes a model."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from tests.runtime.repository_fakes import FakeBackend, FakeFinder, FakeModel, Workshop, write_model

from penstock_runtime.backends.base import Backend, ModelSource
from penstock_runtime.config import (
    AllVersions,
    InstanceGroup,
    LatestVersions,
    ModelConfig,
    SpecificVersions,
    VersionPolicy,
)
from penstock_runtime.errors import Internal, InvalidArgument
from penstock_runtime.repository.index import ModelFolder, scan, scan_model
from penstock_runtime.repository.loader import (
    MAX_CONFIG_BYTES,
    MAX_REASON,
    Loader,
    select_versions,
    short_reason,
)


def find(root: Path, name: str = "m") -> ModelFolder:
    """The model of this name, which is there."""
    folder = scan_model(root, name)
    assert folder is not None
    return folder


def loader() -> Loader[FakeModel]:
    """A loader of fake models that takes any config.pbtxt for a batch size."""
    parsers = {"config.pbtxt": lambda text: ModelConfig(max_batch_size=int(text))}
    return Loader(FakeFinder(), Workshop(), parsers)


def test_no_configuration_is_fine(tmp_path: Path) -> None:
    """The model is called like its folder and the backend knows the rest."""
    write_model(tmp_path, "m")

    assert loader().read(find(tmp_path)) == ModelConfig(name="m")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("config.pbtxt", "8"),
        ("config.json", '{"name": "m", "max_batch_size": 8}'),
        ("config.yaml", "max_batch_size: 8"),
        ("config.yml", "max_batch_size: 8"),
    ],
)
def test_every_format_says_the_same(tmp_path: Path, file: str, text: str) -> None:
    """Whatever file the configuration is in."""
    (write_model(tmp_path, "m") / file).write_text(text)

    assert loader().read(find(tmp_path)) == ModelConfig(name="m", max_batch_size=8)


def test_a_named_configuration_has_the_format_of_the_usual_one(tmp_path: Path) -> None:
    """configs/gpu.pbtxt is read like config.pbtxt."""
    folder = write_model(tmp_path, "m")
    (folder / "configs").mkdir()
    (folder / "configs" / "gpu.pbtxt").write_text("4")

    config = loader().read(scan(tmp_path, config_name="gpu")["m"])

    assert config.max_batch_size == 4


def test_a_configuration_for_another_model_is_refused(tmp_path: Path) -> None:
    """The error has both names, whether the file or a caller's JSON says so."""
    write_model(tmp_path, "m", config='{"name": "n"}')
    folder = find(tmp_path)

    with pytest.raises(InvalidArgument, match="for model 'n', expected 'm'"):
        loader().read(folder)
    with pytest.raises(InvalidArgument, match="for model 'o', expected 'm'"):
        loader().read(folder, '{"name": "o"}')


def test_the_operators_name_goes_before_the_files(tmp_path: Path) -> None:
    """A single model is mounted under a path that says nothing."""
    write_model(tmp_path, "m", config='{"name": "n"}')

    config = loader().read(scan(tmp_path / "m", model_name="iris")["iris"])

    assert config.name == "iris"


def test_a_callers_configuration_replaces_the_files(tmp_path: Path) -> None:
    """All of it, and a broken file does not matter then."""
    write_model(tmp_path, "m", config="broken")

    config = loader().read(find(tmp_path), '{"backend": "fake"}')

    assert config == ModelConfig(name="m", backend="fake")


def test_an_oversized_configuration_is_refused_unparsed(tmp_path: Path) -> None:
    """The parser never sees it."""
    folder = write_model(tmp_path, "m")
    (folder / "config.pbtxt").write_bytes(b"8" * (MAX_CONFIG_BYTES + 1))

    with pytest.raises(InvalidArgument, match="larger than 4194304 bytes"):
        loader().read(find(tmp_path))


def test_a_format_that_nobody_reads_is_refused(tmp_path: Path) -> None:
    """With the names of those that somebody does."""
    (write_model(tmp_path, "m") / "config.pbtxt").write_text("")

    with pytest.raises(InvalidArgument, match=r"'config.pbtxt', expected one of config.json"):
        Loader(FakeFinder(), Workshop()).read(find(tmp_path))


def test_what_is_built_is_complete_checked_and_in_its_normal_form(tmp_path: Path) -> None:
    """And an impossible configuration starts nothing."""
    write_model(tmp_path, "m")
    folder, workshop = find(tmp_path), Workshop()
    loads = Loader(FakeFinder(), workshop, allow_pickle=("m",))

    model = loads.build(folder, ModelConfig(name="m"), 1)
    with pytest.raises(InvalidArgument, match="max_batch_size"):
        loads.build(folder, ModelConfig(name="m", max_batch_size=-1), 1)

    assert model.config.version_policy == VersionPolicy(latest=LatestVersions())
    assert model.source.directory == tmp_path / "m" / "1"
    assert model.source.root == tmp_path / "m"
    assert model.source.allow_pickle
    assert len(workshop.started) == 1


@pytest.mark.parametrize(("allowed", "expected"), [((), False), (("n",), False), (("*",), True)])
def test_pickles_are_refused_unless_the_model_is_named(
    tmp_path: Path, allowed: tuple[str, ...], expected: bool
) -> None:
    """Or all models are."""
    write_model(tmp_path, "m")

    model = Loader(FakeFinder(), Workshop(), allow_pickle=allowed).build(
        find(tmp_path), ModelConfig(name="m"), 1
    )

    assert model.source.allow_pickle is expected


def test_the_backend_completes_before_anything_is_checked(tmp_path: Path) -> None:
    """What the file leaves open is no fault."""
    write_model(tmp_path, "m")

    class Completing(FakeFinder):
        def find(self, source: ModelSource) -> Backend:
            backend = super().find(source)
            backend.complete = lambda source: replace(  # type: ignore[method-assign]
                source.config, instance_group=(InstanceGroup(name="g", count=3),)
            )
            return backend

    model = Loader(Completing(), Workshop()).build(find(tmp_path), ModelConfig(name="m"), 1)

    assert model.config.instance_group[0].count == 3


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (None, (9,)),
        (VersionPolicy(), (9,)),
        (VersionPolicy(latest=LatestVersions(2)), (3, 9)),
        (VersionPolicy(latest=LatestVersions(0)), (9,)),
        (VersionPolicy(latest=LatestVersions(99)), (1, 3, 9)),
        (VersionPolicy(all=AllVersions()), (1, 3, 9)),
        (VersionPolicy(specific=SpecificVersions((3, 1))), (1, 3)),
        (VersionPolicy(specific=SpecificVersions((3, 7))), (3,)),
        (VersionPolicy(specific=SpecificVersions((7,))), ()),
    ],
)
def test_the_version_policy_selects(
    policy: VersionPolicy | None, expected: tuple[int, ...]
) -> None:
    """The latest by number; a specific version that is missing is left out."""
    folder = ModelFolder("m", Path("r"), Path("r/m"), versions=(1, 3, 9))

    assert select_versions(ModelConfig(version_policy=policy), folder) == expected


def test_a_specific_version_that_is_missing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """As an error, with model and version."""
    policy = VersionPolicy(specific=SpecificVersions((7, 1)))
    folder = ModelFolder("m", Path("r"), Path("r/m"), versions=(1,))

    select_versions(ModelConfig(version_policy=policy), folder)

    assert [(r.levelno, r.getMessage()) for r in caplog.records] == [
        (logging.ERROR, "model 'm': version 7 has no folder, the others go on")
    ]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Internal("cannot open /srv/models/m/1/model.pt: bad"), "cannot open model.pt: bad"),
        (Internal("no '/a/b c"), "no 'b c"),
        (Internal("expected FP16/FP32, got 1 / 2"), "expected FP16/FP32, got 1 / 2"),
        (ValueError("two\n  lines\x1b[0m"), "ValueError: two lines?[0m"),
        (KeyError(), "KeyError"),
        (FileNotFoundError(2, "No such file", "/srv/x.pt"), "No such file: 'x.pt'"),
        (ImportError("in ~/secret/m.py, ../up/n.py"), "ImportError: in m.py, n.py"),
    ],
)
def test_a_reason_is_one_line_without_paths(error: Exception, expected: str) -> None:
    """File names may be told, where they lie may not."""
    assert short_reason(error) == expected


def test_a_reason_is_short() -> None:
    """However long the error was."""
    assert len(short_reason(Internal("x" * 10_000))) == MAX_REASON


def test_with_completion_off_no_model_is_asked(tmp_path: Path) -> None:
    """The configuration is then taken as the file says it."""

    class Asked(FakeBackend):
        def complete(self, source: ModelSource) -> ModelConfig:
            raise AssertionError("asked")

    write_model(tmp_path, "m")
    loads = Loader(Finds(Asked()), Workshop(), complete=False)

    model = loads.build(find(tmp_path), ModelConfig(name="m", backend="fake"), 1)

    assert model.config.backend == "fake"


def test_the_backend_that_completion_names_is_the_one_that_loads(tmp_path: Path) -> None:
    """Completing a model may find that it belongs to another backend."""

    class Renaming(FakeBackend):
        def complete(self, source: ModelSource) -> ModelConfig:
            return replace(source.config, backend="other")

    write_model(tmp_path, "m")
    finder = Finds(Renaming())

    Loader(finder, Workshop()).build(find(tmp_path), ModelConfig(name="m"), 1)

    assert finder.asked == ["", "other"]


class Finds:
    """Finds always this backend, and notes for which name it was asked."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.asked: list[str] = []

    def find(self, source: ModelSource) -> Backend:
        self.asked.append(source.config.backend)
        return self._backend
