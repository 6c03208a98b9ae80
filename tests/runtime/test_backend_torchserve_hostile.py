"""Archives that no one should unpack: each is refused by what it is, nothing of it is written, and
no text tells a path.
"""

import contextlib
import io
import stat
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime.mar_files import archive, manifest, mar, members, unpacked
from tests.runtime.model_folders import start

from penstock_runtime.backends.registry import default_registry
from penstock_runtime.backends.torchserve import archive as archives
from penstock_runtime.backends.torchserve import package
from penstock_runtime.backends.torchserve.archive import open_archive
from penstock_runtime.backends.torchserve.settings import MAX_BATCH, read_manifest, read_settings
from penstock_runtime.errors import InvalidArgument, PenstockError


@pytest.fixture(autouse=True)
def unpacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where archives are unpacked in a test."""
    folder = tmp_path / "unpacking"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def refused(root: Path, content: Any, unpacking: Path) -> str:
    """Why a model is refused; by then nothing of it lies anywhere."""
    before = {path for path in root.rglob("*") if unpacking not in path.parents}
    source = mar(root, content)
    with pytest.raises(PenstockError) as caught:
        start(source)
    after = {path for path in root.rglob("*") if unpacking not in path.parents}
    assert after - before == {source.root, source.directory, source.directory / "model.mar"}
    assert not list(unpacking.iterdir())
    text: str = caught.value.message
    assert str(root) not in text
    return text


def built(*entries: tuple[zipfile.ZipInfo | str, bytes]) -> bytes:
    """A zip of the usual members and these."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as made:
        for name, text in members().items():
            made.writestr(name, text)
        for name, content in entries:
            made.writestr(name, content)
    return data.getvalue()


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"no zip at all", b"\x1f\x8b" + bytes(99)])
def test_what_is_no_zip_is_refused(data: bytes, tmp_path: Path, unpacking: Path) -> None:
    """Empty, cut, another kind of archive."""
    assert "model.mar is no zip archive" in refused(tmp_path, data, unpacking)


@pytest.mark.parametrize(
    "name",
    ["../evil.py", "/etc/evil.py", "a/../../evil.py", "a//b.py", "./x.py", "a\\..\\evil.py",
     "x\ny.py", "n" * 300, "/".join(["d"] * 600)],
)  # fmt: skip
def test_names_stay_below_the_folder(name: str, tmp_path: Path, unpacking: Path) -> None:
    """Whatever way a name takes out of it, the archive is refused before anything is written."""
    text = refused(tmp_path, built((name, b"1")), unpacking)

    assert "outside of its folder" in text


def test_a_zero_byte_hides_no_name(tmp_path: Path, unpacking: Path) -> None:
    """zipfile cuts a name at a zero byte: what was behind it counts."""
    data = built(("evilXname.py", b"1")).replace(b"evilXname.py", b"evil\0name.py")

    assert "outside of its folder" in refused(tmp_path, data, unpacking)


def test_links_and_devices_are_refused(tmp_path: Path, unpacking: Path) -> None:
    """An archive holds files and folders."""
    for kind in (stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO):
        info = zipfile.ZipInfo("weights.pt")
        info.external_attr = (kind | 0o777) << 16
        data = built((info, b"/etc/passwd"))

        assert "a link or a device" in refused(tmp_path / str(kind), data, unpacking)


def test_a_bomb_is_refused_by_what_it_claims(
    tmp_path: Path, unpacking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than the archive's own size makes plausible."""
    monkeypatch.setattr(archives, "FREE_BYTES", 1 << 10)
    bomb = built(("zeros", bytes(4 << 20)))

    assert "would unpack to" in refused(tmp_path, bomb, unpacking)


def test_a_bomb_that_claims_little_is_stopped(tmp_path: Path, unpacking: Path) -> None:
    """What is there is counted as well as what is said."""
    size = 3 << 20
    data = built(("zeros", bytes(size)))
    lying = data.replace(size.to_bytes(4, "little"), (5).to_bytes(4, "little"))

    assert lying != data
    assert "a member that is damaged" in refused(tmp_path, lying, unpacking)


def test_too_many_members_are_refused(
    tmp_path: Path, unpacking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list has an end."""
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)

    assert "more than 3" in refused(tmp_path, built(("a", b""), ("b", b"")), unpacking)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_stands_there_once(tmp_path: Path, unpacking: Path) -> None:
    """Two members of one name, or one inside the other, would not be what anyone looked at."""
    twice = built(("handler.py", b"import os"))
    inside = built(("handler.py/x", b""))

    assert "twice" in refused(tmp_path / "1", twice, unpacking)
    assert "inside another file" in refused(tmp_path / "2", inside, unpacking)


def test_encrypted_and_odd_members_are_refused(tmp_path: Path, unpacking: Path) -> None:
    """No password is asked for, and no unusual compression tried."""
    secret = bytearray(built(("x", b"1")))
    for magic, offset in ((b"PK\x01\x02", 8), (b"PK\x03\x04", 6)):
        at = secret.rfind(magic)
        secret[at + offset] |= 1
    odd = zipfile.ZipInfo("x")
    odd.compress_type = zipfile.ZIP_LZMA

    assert "encrypted" in refused(tmp_path / "1", bytes(secret), unpacking)
    assert "compressed in a way" in refused(tmp_path / "2", built((odd, b"1")), unpacking)


def test_damaged_members_are_refused(tmp_path: Path, unpacking: Path) -> None:
    """A check sum that is wrong ends the load, and what was written is removed."""
    data = bytearray(built((zipfile.ZipInfo("stored"), b"some bytes that are stored")))
    at = data.find(b"some bytes")
    data[at] ^= 1

    assert "model.mar" in refused(tmp_path, bytes(data), unpacking)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"handler.py": ""}, "MAR-INF/MANIFEST.json is missing"),
        ({"MAR-INF/MANIFEST.json": "["}, "not valid JSON"),
        ({"MAR-INF/MANIFEST.json": "[]"}, "describes no model"),
        ({"MAR-INF/MANIFEST.json": "[" * 500}, "nests deeper"),
        ({"MAR-INF/MANIFEST.json": '{"model": []}'}, "describes no model"),
        ({"MAR-INF/MANIFEST.json": manifest("")}, "has the handler ''"),
        ({"MAR-INF/MANIFEST.json": manifest("a b")}, "has the handler 'a b'"),
        ({"MAR-INF/MANIFEST.json": manifest("gone.py")}, "the archive has no gone.py"),
        ({"MAR-INF/MANIFEST.json": manifest("os")}, "the archive has no os.py"),
        (members(serializedFile="../x.pt"), "serializedFile '../x.pt'"),
        (members(configFile="/etc/passwd"), "configFile '/etc/passwd'"),
        (members(modelFile=".."), "modelFile '..'"),
        (members(files={"c": "batchSize: many"}, configFile="c"), "batchSize is 'many'"),
        (members(files={"c": "batchSize: -1"}, configFile="c"), "batchSize is -1"),
        (members(files={"c": "- a"}, configFile="c"), "is a list or a text"),
        (members(files={"c": "a: &x [1]\nb: *x"}, configFile="c"), "anchors and aliases"),
    ],
)
def test_a_manifest_that_says_nothing_useful_is_refused(
    content: Any, message: str, tmp_path: Path, unpacking: Path
) -> None:
    """Which file, what is there, what was expected."""
    assert message in refused(tmp_path, archive(content), unpacking)


def test_a_manifest_of_many_megabytes_is_refused(tmp_path: Path, unpacking: Path) -> None:
    """It is read up to a bound and no further."""
    large = {**members(), "MAR-INF/MANIFEST.json": manifest() + " " * (5 << 20)}

    assert "more than 4194304 bytes" in refused(tmp_path, archive(large), unpacking)


def test_several_archives_need_a_choice(tmp_path: Path) -> None:
    """default_model_filename says which."""
    source = mar(tmp_path, members())
    (source.directory / "other.mar").write_bytes(archive(members()))

    with pytest.raises(InvalidArgument, match=r"model.mar, other.mar; say which"):
        start(source)


def test_a_link_to_an_archive_elsewhere_is_refused(tmp_path: Path) -> None:
    """Code comes from the repository and nowhere else."""
    source = mar(tmp_path, members())
    (source.directory / "model.mar").rename(tmp_path / "outside.mar")
    (source.directory / "model.mar").symlink_to(tmp_path / "outside.mar")

    with pytest.raises(InvalidArgument, match="a link that leads out"):
        start(source)


def test_built_in_handlers_name_their_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torchserve brings is not replaced: the error says what to install."""
    monkeypatch.setattr(package, "_installed", lambda: False)
    source = mar(tmp_path, members(handler="image_classifier"))

    with pytest.raises(PenstockError, match="pip install torchserve"):
        start(source)


def test_what_the_stand_in_lacks_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An import of something else of ts fails by its name."""
    monkeypatch.setattr(package, "_installed", lambda: False)
    code = "from ts.torch_handler.vision_handler import VisionHandler\n"

    with pytest.raises(PenstockError, match=r"ts.torch_handler.vision_handler is not in what"):
        start(mar(tmp_path / "1", members(code)))
    with pytest.raises(PenstockError, match=r"ImportError"):
        start(mar(tmp_path / "2", members("from ts.torch_handler import gone\n")))
    with pytest.raises(PenstockError, match=r"neither a function"):
        start(mar(tmp_path / "3", members("import ts.utils.util\nts.utils.util.timed\n")))


def test_completing_runs_no_code(tmp_path: Path, unpacking: Path) -> None:
    """A configuration comes from what is written, whatever the handler would do."""
    source = unpacked(tmp_path, members("raise SystemExit"))

    config = default_registry().find(source).complete(source)

    assert config.max_batch_size == 1
    assert not list(unpacking.iterdir())


@settings(max_examples=60)
@given(st.integers(0, 5000), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_harmless(at: int, byte: int) -> None:
    """Archives with one byte changed unpack below the folder or are refused."""
    data = bytearray(built(("sub/x.txt", b"words")))
    data[at % len(data)] = byte
    with tempfile.TemporaryDirectory() as folder:
        path, target = Path(folder) / "model.mar", Path(folder) / "target"
        path.write_bytes(data)
        target.mkdir()
        told = ""
        try:
            with open_archive(path) as opened:
                opened.unpack(target)
        except PenstockError as error:
            told = error.message
        left = {entry.name for entry in Path(folder).iterdir()}

    assert left == {"model.mar", "target"}
    assert folder not in told


@settings(max_examples=60)
@given(st.integers(0, 700))
def test_an_archive_that_was_cut_is_refused(kept: int) -> None:
    """Wherever it ends, and whatever its directory still says."""
    data = built(("sub/x.txt", b"words"))
    end = data.rfind(b"PK\x01\x02")
    with tempfile.TemporaryDirectory() as folder:
        path, target = Path(folder) / "model.mar", Path(folder) / "target"
        path.write_bytes(data[: kept % end] + data[end:])
        target.mkdir()
        with pytest.raises(PenstockError), open_archive(path) as opened:
            opened.unpack(target)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_any_bytes_beside_a_manifest_are_read_to_an_end(yaml: bytes, properties: bytes) -> None:
    """Configuration files of any content give settings or a PenstockError."""
    described = read_manifest(manifest().encode())
    size = 1
    with contextlib.suppress(PenstockError):
        size = read_settings(described, yaml, properties, "m").batch_size

    assert 1 <= size <= MAX_BATCH


@pytest.mark.parametrize("name", ["../../secret.yaml", "linked.yaml"])
def test_a_configuration_outside_of_the_folder_is_not_read(tmp_path: Path, name: str) -> None:
    """Neither by its path nor through a link."""
    (tmp_path / "secret.yaml").write_text("minWorkers: 3\n")
    source = unpacked(tmp_path, members(configFile=name))
    (source.directory / "linked.yaml").symlink_to(tmp_path / "secret.yaml")

    with pytest.raises(InvalidArgument, match=r"folder|the name of a file") as caught:
        default_registry().find(source).complete(source)

    assert str(tmp_path) not in caught.value.message
