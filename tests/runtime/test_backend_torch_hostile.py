"""Laws of files that mean harm: nothing in a weights file is ever executed. A canary is a file that
would appear if it were.
"""

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.runtime.model_folders import load, source_of, start
from tests.runtime.torch_folders import (
    MODULE,
    edited,
    module_folder,
    net,
    net_config,
    poison,
    script,
    version,
)

from penstock_runtime.backends.base import Placement
from penstock_runtime.errors import InvalidArgument, PenstockError

# -- pickles ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("beside_code", [False, True])
def test_a_pickle_is_never_executed(tmp_path: Path, allowed: bool, beside_code: bool) -> None:
    """Refused by default; where pickles are allowed, only tensors are read from them."""
    canary, directory = tmp_path / "canary", version(tmp_path)
    (directory / "model.pt").write_bytes(poison(canary))
    if beside_code:
        (directory / "model.py").write_text(MODULE)
    source = replace(source_of(directory, net_config(backend="torch")), allow_pickle=allowed)

    with pytest.raises(InvalidArgument):
        start(source)

    assert not canary.exists()


@pytest.mark.parametrize("in_front", [False, True])
def test_a_file_that_is_pickle_and_archive_at_once_is_refused(
    tmp_path: Path, in_front: bool
) -> None:
    """A pickle before a TorchScript archive, or as its data, runs in neither reading."""
    canary = tmp_path / "canary"
    source = script(tmp_path, net(), net_config())
    path = source.directory / "model.pt"
    if in_front:
        path.write_bytes(poison(canary) + path.read_bytes())
    else:
        edited(path, {"data.pkl": lambda _: poison(canary)})

    with pytest.raises(PenstockError):
        start(source)

    assert not canary.exists()


def test_a_saved_module_or_state_dict_is_refused_unless_allowed(tmp_path: Path) -> None:
    """The error says what to write instead."""
    directory = version(tmp_path)
    torch.save(net().state_dict(), directory / "model.pt")
    (directory / "model.py").write_text(MODULE)
    source = source_of(directory, net_config(backend="torch"))

    with pytest.raises(InvalidArgument, match=r"model\.pt is a pickle, .* model\.safetensors"):
        start(source)
    start(replace(source, allow_pickle=True))

    torch.save([1, 2], directory / "model.pt")
    with pytest.raises(InvalidArgument, match="holds a list, expected a state dict"):
        start(replace(source, allow_pickle=True))


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    """What one reader checks, another must not read differently."""
    source = script(tmp_path, net(), net_config())
    path = source.directory / "model.pt"
    with zipfile.ZipFile(path, "a") as archive:
        name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr(name, b"")

    with pytest.raises(InvalidArgument, match="two members of one name"):
        start(source)


def test_a_script_that_writes_files_is_refused(tmp_path: Path) -> None:
    """TorchScript has operators for files; an archive that uses them is not loaded."""

    class Writer(torch.nn.Module):
        def __init__(self, path: str) -> None:
            super().__init__()
            self.path = path

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            torch.save(x, self.path)
            return x

    source = script(tmp_path, Writer(str(tmp_path / "canary")), net_config())

    with pytest.raises(InvalidArgument, match=r"calls save\(\), which"):
        start(source)

    assert not (tmp_path / "canary").exists()


# -- weights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"linear.weight": torch.zeros(3, 5)}, "size mismatch for linear.weight"),
        ({"extra": torch.zeros(1)}, 'Unexpected key.* "extra"'),
        ({"linear.bias": None}, 'Missing key.* "linear.bias"'),
    ],
)
def test_weights_that_do_not_fit_the_module_are_refused(
    tmp_path: Path, change: dict[str, torch.Tensor | None], expected: str
) -> None:
    """Every weight, no other, each of its shape."""
    state = {**net().state_dict(), **change}
    source = module_folder(tmp_path, MODULE, {k: v for k, v in state.items() if v is not None})

    with pytest.raises(InvalidArgument, match=expected):
        start(source)


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    """A weight under a second name need not be in the file."""
    tied = MODULE.replace(
        "self.register_buffer",
        "self.again = torch.nn.Linear(4, 3)\n"
        "        self.again.weight, self.again.bias = self.linear.weight, self.linear.bias\n"
        "        self.register_buffer",
    )
    source = module_folder(tmp_path, tied, net().state_dict())

    _, loaded = load(source)
    loaded.executable(Placement("m_0")).close()
    held = loaded.memory_bytes()
    loaded.close()

    assert held == {"cpu": 4 * (4 * 3 + 3 + 3)}


def test_weights_beside_code_that_is_no_module_are_refused(tmp_path: Path) -> None:
    """The error says how to keep such a model in Python."""
    text = "from penstock_runtime.model_api import *\ndef predict(x: FP32[1]) -> FP32[1]: return x"
    source = module_folder(tmp_path, text, {"w": torch.zeros(1)})
    source = replace(source, config=net_config())

    with pytest.raises(InvalidArgument, match='say backend: "python"'):
        start(source)
