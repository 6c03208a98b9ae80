"""CUDA graphs of torch models: one for each batch size that is worth it, captured when an instance
is warmed up, replayed for batches that fit.

    optimization { cuda { graphs: true graph_spec {
      batch_size: 8 graph_lower_bound { batch_size: 5 } } } }

Which batch takes which graph is decided here without a device; what captures is a `Recorder`. Only
the batch is padded up to a graph; a batch that fits none is computed as without graphs.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.utils._pytree import tree_flatten, tree_map

from penstock_runtime.backends.torch_capture import Capturing
from penstock_runtime.config import ModelConfig, ModelInput
from penstock_runtime.errors import InvalidArgument

_log = logging.getLogger("penstock.model")

Values = Mapping[str, torch.Tensor]
Call = Callable[[Values], Any]
Dims = Mapping[str, tuple[int, ...]]
# Each holds memory, and takes a moment to capture.
MOST_GRAPHS = 32


class Recorder(Protocol):
    """Captures what a call enqueues."""

    def capture(self, call: Call, values: Values) -> tuple[Callable[[], None], Any]:
        """What replays the call on these very tensors, and the tensors that it fills."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """A graph: for batches of `lowest` to `rows` rows, whose inputs have these dims."""

    rows: int
    lowest: int
    dims: Dims

    def takes(self, rows: int, dims: Dims) -> bool:
        """Whether a batch may be padded up to it."""
        return self.lowest <= rows <= self.rows and dims == self.dims


def buckets_of(config: ModelConfig) -> tuple[Bucket, ...]:
    """The graphs that a configuration asks for, the smallest first; none where it asks for none.

    Without a `graph_spec` there is one for each power of two and each preferred batch size, if all
    dims are known. InvalidArgument for a spec that cannot be.
    """
    cuda = _options(config)
    if not cuda.get("graphs"):
        return ()
    if not config.has_rows or config.sequence_batching is not None:
        _log.warning("model '%s' has no rows that a graph could be padded with", config.name)
        return ()
    specs = cuda.get("graph_spec") or ()
    found = [_bucket(config, spec) for spec in specs] if specs else _usual(config)
    if len(found) > MOST_GRAPHS:
        raise _refusal(config, f"asks for {len(found)} graphs", f"at most {MOST_GRAPHS}")
    return tuple(sorted(found, key=lambda bucket: bucket.rows))


def choose(buckets: Sequence[Bucket], rows: int, dims: Dims) -> Bucket | None:
    """The smallest that takes the batch."""
    return next((bucket for bucket in buckets if bucket.takes(rows, dims)), None)


def _options(config: ModelConfig) -> Mapping[str, Any]:
    optimization = config.extra.get("optimization")
    cuda = optimization.get("cuda") if isinstance(optimization, Mapping) else None
    return cuda if isinstance(cuda, Mapping) else {}


def _bucket(config: ModelConfig, spec: Mapping[str, Any]) -> Bucket:
    rows = int(spec.get("batch_size", 0))
    if not 1 <= rows <= config.max_batch_size:
        raise _refusal(config, f"has batch_size {rows}", f"1 to {config.max_batch_size}")
    said = {
        name: tuple(map(int, one.get("dim", ()))) for name, one in spec.get("input", {}).items()
    }
    dims = {}
    for declared in config.input:
        own = _own_dims(declared)
        wanted = said.pop(declared.name, own)
        fits = len(wanted) == len(own) and all(
            size > 0 and dim in (-1, size) for size, dim in zip(wanted, own, strict=True)
        )
        if not fits:
            raise _refusal(config, f"has dims {list(wanted)} for '{declared.name}'", f"{list(own)}")
        dims[declared.name] = wanted
    if said:
        raise _refusal(config, f"names the input '{next(iter(said))}'", ", ".join(dims))
    bound = spec.get("graph_lower_bound")
    lowest = int(bound.get("batch_size", 0)) if isinstance(bound, Mapping) else rows
    if not 0 <= lowest <= rows:
        raise _refusal(config, f"has a lower bound of {lowest}", f"at most {rows}")
    return Bucket(rows, max(lowest, 1), dims)


def _usual(config: ModelConfig) -> list[Bucket]:
    dims = {declared.name: _own_dims(declared) for declared in config.input}
    if any(dim < 1 for own in dims.values() for dim in own):
        _log.warning(
            "model '%s' has dims that vary: no graph is captured without a graph_spec", config.name
        )
        return []
    most, batching = config.max_batch_size, config.dynamic_batching
    sizes = {2**n for n in range(most.bit_length()) if 2**n <= most} | {most}
    if batching is not None:
        sizes |= {size for size in batching.preferred_batch_size if 1 <= size <= most}
    ordered = sorted(sizes)
    return [
        Bucket(rows, below + 1, dims) for below, rows in zip((0, *ordered), ordered, strict=False)
    ]


def _own_dims(declared: ModelInput) -> tuple[int, ...]:
    """As the model takes it, whatever clients send."""
    return declared.dims if declared.reshape is None else declared.reshape.shape


def _refusal(config: ModelConfig, found: str, expected: str) -> InvalidArgument:
    return InvalidArgument(f"model '{config.name}': graph_spec {found}, expected {expected}")


# -- captured --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Captured:
    """A graph, the inputs that it reads and the outputs that it fills."""

    replay: Callable[[], None]
    values: Values
    outputs: Any


class GraphedCall:
    """A call of one instance that replays a graph where one fits."""

    def __init__(self, call: Call, model: str) -> None:
        self._call = call
        self._model = model
        self._buckets: tuple[Bucket, ...] = ()
        self._captured: dict[int, _Captured] = {}

    @property
    def graphs(self) -> tuple[int, ...]:
        """The batch sizes that are captured."""
        return tuple(bucket.rows for bucket in self._buckets)

    def capture(
        self, buckets: Sequence[Bucket], zeros: Callable[[Bucket], Values], recorder: Recorder
    ) -> None:
        """Capture these, the largest first, whose memory the others then share; what cannot be is
        left out, and told.
        """
        done = []
        for bucket in sorted(buckets, key=lambda one: -one.rows):
            try:
                self._captured[id(bucket)] = self._capture(bucket, zeros(bucket), recorder)
                done.append(bucket)
            except Exception as error:
                _log.warning(
                    "model '%s': no graph for %d rows: %s", self._model, bucket.rows, error
                )
        self._buckets = tuple(reversed(done))

    def _capture(self, bucket: Bucket, values: Values, recorder: Recorder) -> _Captured:
        replay, outputs = recorder.capture(self._call, values)
        leaves, _ = tree_flatten(outputs)
        for leaf in leaves:
            if not isinstance(leaf, torch.Tensor) or leaf.shape[:1] != (bucket.rows,):
                raise ValueError("it gives something else than tensors with a row for each row")
        return _Captured(replay, values, outputs)

    def __call__(self, values: Values, names: Mapping[str, str]) -> Any:
        """As the call; `names` are the inputs' by the call's own. Outputs of a graph are good until
        the next call.
        """
        if not self._buckets or not values:
            return self._call(values)
        dims = {names[key]: tuple(tensor.shape[1:]) for key, tensor in values.items()}
        rows = int(next(iter(values.values())).shape[0])
        bucket = choose(self._buckets, rows, dims)
        if bucket is None:
            return self._call(values)
        return self._replay(self._captured[id(bucket)], values, rows)

    def _replay(self, captured: _Captured, values: Values, rows: int) -> Any:
        for key, static in captured.values.items():
            static[:rows].copy_(values[key], non_blocking=True)
            # What another batch left there must not reach sums over the batch.
            static[rows:].zero_()
        captured.replay()
        return tree_map(lambda tensor: tensor[:rows], captured.outputs)


class TorchRecorder:
    """Captures by torch; all graphs of an instance share one pool of memory."""

    def __init__(self, device: torch.device) -> None:
        self._capturing = Capturing(device)

    def capture(self, call: Call, values: Values) -> tuple[Callable[[], None], Any]:
        """What replays the call on these very tensors, and the tensors that it fills."""
        return self._capturing.capture(lambda: call(values))


def recorder_of(device: torch.device) -> Recorder | None:
    """What captures on this device; None where nothing does."""
    return TorchRecorder(device) if device.type == "cuda" else None
