"""Laws of CUDA graphs, on a recorder that calls the model again for a replay: which batch takes
which graph, that padding stays inside, and that what cannot be captured is computed as ever.
"""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from tests.runtime.model_folders import context, executable
from tests.runtime.torch_folders import MODULE, module_folder, net, net_config, rows

from penstock_runtime.backends.torch_graphs import (
    Bucket,
    GraphedCall,
    buckets_of,
    choose,
    recorder_of,
)
from penstock_runtime.backends.torch_instance import TorchExecutable
from penstock_runtime.config import ModelConfig, Reshape
from penstock_runtime.config_scheduling import DynamicBatching
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.tensor import to_host


class Replays:
    """Calls again what a device would replay, and counts."""

    def __init__(self, refuses: int = 0) -> None:
        self.replayed: list[int] = []
        self._refuses = refuses

    def capture(self, call: Callable[[Any], Any], values: Any) -> tuple[Callable[[], None], Any]:
        count = next(iter(values.values())).shape[0]
        if count == self._refuses:
            raise RuntimeError("operation not permitted when stream is capturing")
        outputs = call(values)

        def replay() -> None:
            self.replayed.append(count)
            again = call(values)
            pairs = zip(
                *(torch.utils._pytree.tree_leaves(o) for o in (outputs, again)), strict=True
            )
            for static, fresh in pairs:
                static.copy_(fresh)

        return replay, outputs


def graphs(config: ModelConfig | None = None, **cuda: Any) -> ModelConfig:
    """A model with these options of optimization.cuda."""
    return replace(config or net_config(), extra={"optimization": {"cuda": cuda}})


def sizes(config: ModelConfig) -> list[tuple[int, int]]:
    """The lowest and the highest batch of each graph."""
    return [(bucket.lowest, bucket.rows) for bucket in buckets_of(config)]


def test_without_being_asked_for_there_are_no_graphs() -> None:
    """Nor where the option says no."""
    assert buckets_of(net_config()) == ()
    assert buckets_of(graphs(graphs=False, graph_spec=[{"batch_size": 2}])) == ()


def test_powers_of_two_and_preferred_sizes_have_a_graph() -> None:
    """Up to the largest batch; each takes what the one below does not."""
    batching = DynamicBatching(preferred_batch_size=(6, 99))
    model = replace(net_config(), max_batch_size=12, dynamic_batching=batching)

    assert sizes(graphs(model, graphs=True)) == [(1, 1), (2, 2), (3, 4), (5, 6), (7, 8), (9, 12)]


def test_a_spec_is_exact_unless_it_has_a_lower_bound() -> None:
    """As Triton has it."""
    specs = [
        {"batch_size": 8, "graph_lower_bound": {"batch_size": 5}},
        {"batch_size": 4},
        {"batch_size": 2, "graph_lower_bound": {}},
    ]

    model = graphs(replace(net_config(), max_batch_size=8), graphs=True, graph_spec=specs)

    assert sizes(model) == [(1, 2), (4, 4), (5, 8)]
    found = {n: choose(buckets_of(model), n, {"x": (4,)}) for n in (1, 3, 4, 5, 9)}
    assert {n: bucket and bucket.rows for n, bucket in found.items()} == {
        1: 2,
        3: None,
        4: 4,
        5: 8,
        9: None,
    }


def test_a_graph_is_of_the_shape_that_the_model_takes() -> None:
    """Clients may send another: it is what is captured that must fit."""
    square = replace(net_config().input[0], reshape=Reshape((2, 2)))
    model = replace(net_config(), max_batch_size=2, input=(square,))

    usual = buckets_of(graphs(model, graphs=True))
    asked = buckets_of(graphs(model, graphs=True, graph_spec=[{"batch_size": 2}]))

    assert [bucket.dims for bucket in (*usual, *asked)] == [{"x": (2, 2)}] * 3


def test_dims_that_vary_need_a_spec(caplog: pytest.LogCaptureFixture) -> None:
    """Then only batches of just these dims take the graph."""
    varying = replace(net_config(), input=tuple(replace(i, dims=(-1,)) for i in net_config().input))
    spec = {"batch_size": 2, "input": {"x": {"dim": ["7"]}}}

    assert buckets_of(graphs(varying, graphs=True)) == ()
    assert "dims that vary" in caplog.text
    (bucket,) = buckets_of(graphs(varying, graphs=True, graph_spec=[spec]))
    assert bucket.takes(2, {"x": (7,)})
    assert not bucket.takes(2, {"x": (6,)})


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ({}, "has batch_size 0, expected 1 to"),
        ({"batch_size": 999}, "has batch_size 999"),
        ({"batch_size": 1, "input": {"x": {"dim": [5]}}}, r"has dims \[5\] for 'x'"),
        ({"batch_size": 1, "input": {"z": {"dim": [4]}}}, "names the input 'z', expected x"),
        ({"batch_size": 2, "graph_lower_bound": {"batch_size": 3}}, "lower bound of 3, expected"),
    ],
)
def test_a_spec_that_cannot_be_is_refused(spec: dict[str, Any], said: str) -> None:
    """With what was expected."""
    with pytest.raises(InvalidArgument, match=said):
        buckets_of(graphs(graphs=True, graph_spec=[spec]))


def test_too_many_graphs_are_refused() -> None:
    """Each holds memory."""
    model = replace(net_config(), max_batch_size=64)

    with pytest.raises(InvalidArgument, match="asks for 33 graphs, expected at most 32"):
        buckets_of(graphs(model, graphs=True, graph_spec=[{"batch_size": 1}] * 33))


def test_a_batch_that_fits_replays_and_answers_as_without(tmp_path: Path) -> None:
    """Padding reaches no answer, and none of what another batch left."""
    module, recorder = net(), Replays()
    source = module_folder(tmp_path, MODULE, module.state_dict())
    config = replace(net_config(), max_batch_size=4)

    with executable(replace(source, config=replace(source.config, max_batch_size=4))) as made:
        instance = cast(TorchExecutable, made)
        plain = {
            n: to_host(instance.execute({"x": rows(n)}, [context()])["y"]) for n in range(1, 6)
        }
        instance.capture(buckets_of(graphs(config, graphs=True)), recorder)
        found = {
            n: to_host(instance.execute({"x": rows(n)}, [context()])["y"]).copy()
            for n in (4, 1, 3, 5, 2)
        }

    assert instance.graphed.graphs == ()
    assert recorder.replayed == [4, 1, 4, 2]
    for count, answer in found.items():
        np.testing.assert_allclose(answer, plain[count], rtol=1e-5, atol=1e-6)


def test_what_cannot_be_captured_is_computed_as_ever(caplog: pytest.LogCaptureFixture) -> None:
    """A batch of that size takes the next larger graph only if that allows it."""
    recorder = Replays(refuses=2)
    call = GraphedCall(lambda values: (values["x"] * 2,), "m")
    dims = {"x": (3,)}
    with caplog.at_level(logging.WARNING):
        call.capture(
            [Bucket(2, 1, dims), Bucket(4, 3, dims)],
            lambda bucket: {"x": torch.zeros(bucket.rows, 3)},
            recorder,
        )

    small = call({"x": torch.ones(2, 3)}, {"x": "x"})
    large = call({"x": torch.ones(3, 3)}, {"x": "x"})

    assert "no graph for 2 rows: operation not permitted" in caplog.text
    assert call.graphs == (4,)
    assert recorder.replayed == [4]
    assert small[0].tolist() == [[2] * 3] * 2
    assert large[0].tolist() == [[2] * 3] * 3


@pytest.mark.parametrize("gives", [lambda x: x.sum(), lambda x: (x, 3), lambda x: x[:1]])
def test_outputs_without_rows_are_never_captured(gives: Callable[[Any], Any]) -> None:
    """They could not be cut back."""
    call = GraphedCall(lambda values: gives(values["x"]), "m")

    call.capture([Bucket(2, 2, {"x": (3,)})], lambda _: {"x": torch.zeros(2, 3)}, Replays())

    assert call.graphs == ()


def test_rows_that_no_request_has_are_zero_in_a_replay() -> None:
    """A model that looks across its batch sees nobody else's."""
    call = GraphedCall(lambda values: values["x"] + values["x"].sum(), "m")
    call.capture([Bucket(4, 1, {"x": (1,)})], lambda _: {"x": torch.zeros(4, 1)}, Replays())

    call({"x": torch.full((4, 1), 100.0)}, {"x": "x"})
    found = call({"x": torch.ones(2, 1)}, {"x": "x"})

    assert found.tolist() == [[3], [3]]


def test_on_a_cpu_nothing_is_captured() -> None:
    """There is no recorder."""
    assert recorder_of(torch.device("cpu")) is None
