"""The LoRA adapters of a model: which are offered, which are loaded into one of its slots, and
which token of a step has which. Belongs to the thread that runs the model, but for `read`.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from penstock_runtime.errors import FailedPrecondition, InvalidArgument, NotFound
from penstock_runtime.llm.linears import head_of, linear_sizes
from penstock_runtime.llm.lora_file import AdapterFile, Factors, adapter_folder, read_adapter
from penstock_runtime.llm.lora_linear import NONE, AdapterRows, LoraForward
from penstock_runtime.llm.options import EngineOptions

OTHERS, MOST_OTHERS = "*", 1024


@dataclass(frozen=True, slots=True)
class Target:
    """A linear layer as an adapter names it: a layer of the model, or the outputs of one from
    `first` on where several are fused.
    """

    layer: str
    first: int
    inputs: int
    outputs: int


@dataclass(frozen=True, slots=True)
class AdapterStats:
    """Slots, those that are taken and in use, what the factors take, and how often one had to be
    loaded or make room.
    """

    slots: int
    loaded: int
    in_use: int
    nbytes: int
    loads: int
    evictions: int


class _Slot:
    """An adapter that is loaded."""

    __slots__ = ("index", "layers", "nbytes", "users")

    def __init__(self, index: int, layers: tuple[str, ...], nbytes: int) -> None:
        self.index, self.layers, self.nbytes, self.users = index, layers, nbytes, 0


class Adapters:
    """`options.adapters` lists them: `name=folder`, several with commas between, folders inside of
    the model's (`root`); with `*=folder` whatever lies in that folder when it is asked for is one.
    At most `max_loras` are loaded at once: the one that was not used for the longest time makes
    room, unless sequences use it. Make it after the model is quantised and fused: what an adapter
    changes are the layers that are there then.
    """

    def __init__(self, model: torch.nn.Module, options: EngineOptions, root: Path | str) -> None:
        self._model = model
        self._root = Path(root)
        self._max_rank, self._slots = options.max_lora_rank, options.max_loras
        self._listed = read_list(options.adapters)
        if self._listed and not self._slots:
            raise InvalidArgument("max_loras is 0, expected 1 or more to load adapters")
        for name, path in self._listed.items():
            adapter_folder(self._root, path, name)
        first = next(model.parameters())
        self._dtype, self._device = first.dtype, first.device
        self._targets = targets(model)
        self._loaded: OrderedDict[str, _Slot] = OrderedDict()
        self._changed: dict[str, LoraForward] = {}
        self._loads = self._evictions = 0
        self.rows = AdapterRows()

    @property
    def names(self) -> tuple[str, ...]:
        """Those that are offered."""
        return tuple(self._offered())

    @property
    def loaded(self) -> tuple[str, ...]:
        """Those that are loaded, the one that was not used for the longest time first."""
        return tuple(self._loaded)

    # -- loading -----------------------------------------------------------------------------------

    def read(self, name: str) -> AdapterFile:
        """Read one that is offered from its files and see that it fits, from any thread. NotFound
        names those that are offered, InvalidArgument what is wrong with its files.
        """
        known = self._offered()
        path = known.get(name)
        if path is None:
            offered = ", ".join(sorted(known)[:16]) or "none"
            raise NotFound(f"there is no adapter {name[:64]!r}, only {offered}")
        found = read_adapter(self._root, path, name, self._max_rank, self._dtype)
        self._check(found)
        return found

    def _offered(self) -> dict[str, str]:
        """The folder of each: of those that are listed, and of what is in the folder for all others
        now.
        """
        known = dict(self._listed)
        home = known.pop(OTHERS, None)
        if home is None:
            return known
        inside = sorted(adapter_folder(self._root, home, OTHERS).iterdir())[:MOST_OTHERS]
        others = {path.name: f"{home}/{path.name}" for path in inside if path.is_dir()}
        return {**others, **known}

    def load(self, name: str, found: AdapterFile | None = None) -> int:
        """Have it in a slot, whose number is returned; `found` where it was read before.
        FailedPrecondition where sequences use the adapters of all slots.
        """
        slot = self._loaded.get(name)
        if slot is None:
            slot = self._install(found or self.read(name))
        self._loaded.move_to_end(name)
        return slot.index

    def unload(self, name: str) -> bool:
        """Free its slot; False where it had none. FailedPrecondition while sequences use it."""
        slot = self._loaded.get(name)
        if slot is None:
            return False
        if slot.users:
            raise FailedPrecondition(f"adapter '{name}' is used by {slot.users} sequences")
        for layer in slot.layers:
            if self._changed[layer].drop(slot.index):
                del self._changed[layer]
        del self._loaded[name]
        return True

    def _install(self, found: AdapterFile) -> _Slot:
        index = self._free_slot()
        by_layer: dict[str, list[tuple[int, Factors]]] = {}
        for name, factors in found.layers.items():
            target = self._targets[name]
            by_layer.setdefault(target.layer, []).append((target.first, factors))
        for layer, parts in by_layer.items():
            if layer not in self._changed:
                self._changed[layer] = LoraForward(self._model.get_submodule(layer), self.rows)
            self._changed[layer].put(index, parts, self._device)
        slot = _Slot(index, tuple(by_layer), found.nbytes)
        self._loaded[found.name] = slot
        self._loads += 1
        return slot

    def _free_slot(self) -> int:
        if len(self._loaded) >= self._slots:
            idle = next((name for name, slot in self._loaded.items() if not slot.users), None)
            if idle is None:
                raise FailedPrecondition(
                    f"all {self._slots} slots (max_loras) of adapters are used"
                )
            self.unload(idle)
            self._evictions += 1
        taken = {slot.index for slot in self._loaded.values()}
        return next(index for index in range(self._slots) if index not in taken)

    def _check(self, found: AdapterFile) -> None:
        for name, factors in found.layers.items():
            target = self._targets.get(name)
            if target is None:
                raise InvalidArgument(
                    f"adapter '{found.name}' changes {name[:128]}, which is no linear layer of the"
                    " decoder"
                )
            has = (len(factors.b), factors.a.shape[1])
            if has != (target.outputs, target.inputs):
                raise InvalidArgument(
                    f"adapter '{found.name}' changes {name[:128]} by {has[0]}x{has[1]}, expected"
                    f" {target.outputs}x{target.inputs}"
                )

    # -- use ---------------------------------------------------------------------------------------

    def acquire(self, name: str) -> int | None:
        """The slot of an adapter for a sequence, loaded now if it is not, and kept until `release`;
        None, and the sequence has to wait, where others use all slots.
        """
        if name not in self._loaded and self.full:
            return None
        index = self.load(name)
        self._loaded[name].users += 1
        return index

    def release(self, name: str) -> None:
        """A sequence that acquired it has ended."""
        self._loaded[name].users -= 1

    @property
    def full(self) -> bool:
        """Whether sequences use all slots."""
        users = sum(slot.users > 0 for slot in self._loaded.values())
        return users >= self._slots

    def index(self, name: str) -> int:
        """The slot of a loaded adapter; NONE of the name ""."""
        if not name:
            return NONE
        slot = self._loaded.get(name)
        if slot is None:
            raise FailedPrecondition(f"adapter '{name[:64]}' is not loaded")
        self._loaded.move_to_end(name)
        return slot.index

    def set_rows(self, indices: torch.Tensor | Sequence[int] | None) -> None:
        """The slot of each token of the next step, NONE (-1) of one without; None for none at all.
        It holds until it is set again.
        """
        self.rows.set(indices, self._device)

    def set_all(self, name: str) -> None:
        """All tokens of what follows have this adapter; "" for none."""
        self.rows.set_all(self.index(name))

    def stats(self) -> AdapterStats:
        """How it stands."""
        slots = self._loaded.values()
        return AdapterStats(
            slots=self._slots,
            loaded=len(slots),
            in_use=sum(slot.users > 0 for slot in slots),
            nbytes=sum(slot.nbytes for slot in slots),
            loads=self._loads,
            evictions=self._evictions,
        )

    def __repr__(self) -> str:
        return f"<Adapters {len(self._loaded)} of {len(self._offered())} in {self._slots} slots>"


def read_list(text: str) -> dict[str, str]:
    """The folder of each adapter in `name=folder,name=folder`; under the name "*" that of folders
    which are adapters by their own names. InvalidArgument names what is wrong with it.
    """
    found: dict[str, str] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, equals, path = (part.strip() for part in entry.partition("="))
        if not (name and equals and path) or name in found:
            raise InvalidArgument(
                f"adapters has {entry[:128]!r}, expected name=folder, each name once"
            )
        found[name] = path
    return found


# Of a layer that is several: where it stands, and whose names it answers to, in the order of its
# `sizes`.
_FUSED = {
    "gate_proj": ("gate_proj", "up_proj"),
    "q_proj.whole": ("q_proj", "k_proj", "v_proj"),
}


def targets(model: torch.nn.Module) -> Mapping[str, Target]:
    """The linear layers that adapters may change, by the names that they go by: all but the head,
    which not every token reaches.
    """
    head = head_of(model)
    found: dict[str, Target] = {}
    for name, module in model.named_modules():
        sizes = linear_sizes(module)
        if sizes is None or module is head:
            continue
        first, outputs = 0, getattr(module, "sizes", [sizes[1]])
        for part, size in zip(_parts(name, len(outputs)), outputs, strict=True):
            found[part] = Target(name, first, sizes[0], size)
            first += size
    return found


def _parts(name: str, count: int) -> list[str]:
    """The names of the layers in one; those of a fusion that is not known are none to ask for."""
    if count == 1:
        # One that is packed by itself may stand inside of what it replaced.
        return [name.removesuffix(".whole")]
    for place, parts in _FUSED.items():
        if len(parts) == count and (name == place or name.endswith("." + place)):
            beside = name.removesuffix(place)
            return [beside + part for part in parts]
    return [f"{name}[{place}]" for place in range(count)]
