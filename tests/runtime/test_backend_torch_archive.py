"""Laws of torch.export archives: operators, arithmetic and tensors are loaded; whatever could run
or be unpickled is refused before torch sees it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.runtime.model_folders import load, start
from tests.runtime.torch_folders import (
    Edit,
    edit_json,
    edited,
    exported,
    net,
    poison,
)

from penstock_runtime.errors import InvalidArgument


def set_target(document: Any) -> None:
    document["graph_module"]["graph"]["nodes"][0]["target"] = "torch.os.system"


def set_loader(document: Any) -> None:
    document["graph_module"]["graph"]["nodes"][0]["target"] = "torch.ops.load_library.__call__"


def set_operator(document: Any) -> None:
    node = document["graph_module"]["graph"]["nodes"][0]
    node["inputs"][0]["arg"] = {"as_operator": "_operator.attrgetter"}


def set_name(document: Any) -> None:
    value = document["graph_module"]["graph"]["inputs"][-1]["as_tensor"]
    value["name"] = "x=open('canary', 'w')"


def set_argument_name(document: Any) -> None:
    call = document["graph_module"]["module_call_graph"][0]["signature"]
    call["forward_arg_names"] = ["x=open('canary', 'w')"]


def set_shape(document: Any) -> None:
    size = document["graph_module"]["graph"]["tensor_values"]["x"]["sizes"]
    size[0] = {"as_expr": {"expr_str": "open('canary','w')", "hint": None}}


def set_shape_by_attribute(document: Any) -> None:
    size = document["graph_module"]["graph"]["tensor_values"]["x"]["sizes"]
    size[0] = {"as_expr": {"expr_str": "Integer(1).__class__", "hint": None}}


def set_guard(document: Any) -> None:
    document["guards_code"] = ["open('canary', 'w')"]


def set_guard_by_method(document: Any) -> None:
    document["guards_code"] = ["math.__loader__.load_module('os').system('touch canary')"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (set_target, "calls 'torch.os.system', which is no operator"),
        (set_loader, "which is no operator"),
        (set_operator, "which is no operator"),
        (set_name, "where a name is expected"),
        (set_argument_name, "where a name is expected"),
        (set_shape, "which is more than arithmetic"),
        (set_shape_by_attribute, "which is more than arithmetic"),
        (set_guard, "which is more than arithmetic"),
        (set_guard_by_method, "which is more than arithmetic"),
    ],
)
def test_a_program_with_code_in_it_is_refused_unloaded(
    tmp_path: Path,
    change: Callable[[Any], None],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Operators are operators, expressions are arithmetic, names are names."""
    monkeypatch.chdir(tmp_path)
    source = exported(tmp_path, net(), torch.zeros(2, 4))
    edited(source.directory / "model.pt2", {"models/model.json": edit_json(change)})

    with pytest.raises(InvalidArgument, match=expected):
        start(source)

    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("weight", "holds 'linear.weight' as a pickle"),
        ("constant", "holds 'evil' as a pickle"),
        ("samples", "sample inputs that are not plain tensors"),
        ("legacy", "holds a pickle"),
        ("native", "native code"),
        ("broken", "no JSON"),
    ],
)
def test_a_program_with_a_pickle_in_it_is_refused_unread(
    tmp_path: Path, case: str, expected: str
) -> None:
    """Wherever the loader would unpickle or open a library, there must be nothing."""
    canary = tmp_path / "canary"
    evil = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True}
    weights, constants = "data/weights/model_weights_config.json", "data/constants/"
    edits: dict[str, dict[str, Edit]] = {
        "weight": {
            weights: edit_json(lambda d: d["config"]["linear.weight"].update(use_pickle=True)),
            "data/weights/weight_0": lambda _: poison(canary),
        },
        "constant": {
            f"{constants}model_constants_config.json": edit_json(
                lambda d: d["config"].update(evil=evil)
            )
        },
        "samples": {"data/sample_inputs/model.pt": lambda _: poison(canary)},
        "broken": {"models/model.json": lambda _: b"[" * 100_000},
    }
    added = {
        "constant": {f"{constants}opaque_obj_0": poison(canary)},
        "legacy": {"data/weights/model.pt": poison(canary)},
        "native": {"data/aotinductor/model/a.so": b"\x7fELF"},
    }
    source = exported(tmp_path, net(), torch.zeros(2, 4))
    edited(source.directory / "model.pt2", edits.get(case, {}), added.get(case))

    with pytest.raises(InvalidArgument, match=expected):
        start(source)

    assert not canary.exists()


class Shapes(torch.nn.Module):
    """Arithmetic on sizes, control flow, and operators of several kinds."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Three outputs, one of them with an odd key."""
        rows, columns = x.shape
        branch = torch.cond(x.sum() > 0, lambda a: a + 1, lambda a: a - 1, (x,))
        return {
            "odd key!": branch,
            "half": x[:, : max(1, columns // 3)],
            "outer": torch.einsum("bi,bj->bij", x, x) * (rows + columns),
        }


def test_honest_programs_with_symbolic_shapes_pass(tmp_path: Path) -> None:
    """Arithmetic on sizes, branches, einsum strings and odd dictionary keys are nothing unusual."""
    dynamic = {"x": {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO}}
    source = exported(tmp_path, Shapes(), torch.ones(3, 8), dynamic_shapes=dynamic)

    config, loaded = load(source)
    loaded.close()

    assert [declared.name for declared in config.output] == ["odd key!", "half", "outer"]
