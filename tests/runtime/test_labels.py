"""Laws of label files: a line is a label, and nothing outside the model's folder is read."""

from pathlib import Path

import pytest

from penstock_runtime import labels
from penstock_runtime.config import ModelConfig, ModelOutput
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.labels import NO_LABELS, label_problems, read_labels


def naming(filename: str) -> ModelConfig:
    """A model whose output y has this label file, and z has none."""
    outputs = (
        ModelOutput("y", DataType.FP32, (3,), label_filename=filename),
        ModelOutput("z", DataType.FP32, (3,)),
    )
    return ModelConfig(name="m", output=outputs)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"cat\ndog\n", (b"cat", b"dog")),
        (b"cat\ndog", (b"cat", b"dog")),
        (b"cat\r\ndog\r\n", (b"cat", b"dog")),
        (b"cat\n\ndog\n\n", (b"cat", b"", b"dog", b"")),
        (b"a:b\x0bc\xff\n", (b"a:b\x0bc\xff",)),
        (b"", (b"",)),
    ],
)
def test_a_line_is_a_label(tmp_path: Path, data: bytes, expected: tuple[bytes, ...]) -> None:
    """Whatever its bytes, and however the lines and the file end; an empty line is no label."""
    (tmp_path / "labels.txt").write_bytes(data)

    assert read_labels(naming("labels.txt"), tmp_path) == {"y": expected}


def test_outputs_without_a_file_have_no_labels(tmp_path: Path) -> None:
    """Nothing is looked for."""
    assert read_labels(naming(""), tmp_path / "nowhere") is NO_LABELS


def test_a_link_inside_the_folder_is_followed(tmp_path: Path) -> None:
    """Mounts of Kubernetes are made of such links; a file in a version's folder will do as well."""
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "real.txt").write_text("cat\n")
    (tmp_path / "labels.txt").symlink_to("1/real.txt")

    assert read_labels(naming("labels.txt"), tmp_path) == read_labels(
        naming("1/real.txt"), tmp_path
    )


@pytest.mark.parametrize(
    ("filename", "text"),
    [
        ("../secret.txt", "leads out of the model's folder"),
        ("a/../../secret.txt", "leads out of the model's folder"),
        ("/etc/passwd", "leads out of the model's folder"),
        ("link.txt", "leads out of the model's folder"),
        ("linked/secret.txt", "leads out of the model's folder"),
        ("none.txt", "is not there, expected a text file"),
        ("folder", "is not there, expected a text file"),
        ("loop.txt", ""),
        ("x" * 256, ""),
        ("a\0b", "cannot be read"),
    ],
)
def test_nothing_outside_the_folder_is_read(tmp_path: Path, filename: str, text: str) -> None:
    """Neither by a path nor by a link; the text names file, output and model, and no other path."""
    root = tmp_path / "m"
    (root / "folder").mkdir(parents=True)
    (tmp_path / "secret.txt").write_text("secret\n")
    (root / "link.txt").symlink_to(tmp_path / "secret.txt")
    (root / "linked").symlink_to(tmp_path)
    (root / "loop.txt").symlink_to("loop.txt")

    with pytest.raises(InvalidArgument) as refused:
        read_labels(naming(filename), root)

    assert text in refused.value.message
    assert "of output 'y' of model 'm'" in refused.value.message
    assert str(tmp_path) not in refused.value.message


@pytest.mark.parametrize(
    ("limit", "text"),
    [
        ("MAX_FILE_BYTES", "is larger than 4 bytes, the most for labels"),
        ("MAX_LABELS", "has 5 lines, expected at most 4"),
        ("MAX_LABEL_BYTES", "has a label of 5 bytes, expected at most 4"),
    ],
)
def test_files_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, text: str
) -> None:
    """In bytes, in lines and in the length of a line."""
    (tmp_path / "labels.txt").write_bytes(b"\n\n\n\n" + b"five!" + b"\n")
    monkeypatch.setattr(labels, limit, 4)

    with pytest.raises(InvalidArgument, match=text):
        read_labels(naming("labels.txt"), tmp_path)


def test_problems_have_the_field_of_the_file(tmp_path: Path) -> None:
    """For whoever only looks at a repository; names that lead out are told of elsewhere."""
    (found,) = label_problems(naming("none.txt"), tmp_path)

    assert (found.severity, found.field) == ("error", "output[0].label_filename")
    assert "'none.txt'" in found.message
    assert not list(label_problems(naming("../x"), tmp_path))
