"""Images of various sizes on their way to a network: joined by the host and then copied with their
tables one by one, or packed into the slab with all of it and copied once. Either ends with the
pixels on the device.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from penstock_runtime.backends.base import ModelSource, Placement
from penstock_runtime.backends.kernel.backend import KernelBackend
from penstock_runtime.backends.kernel.model import KernelExecutable
from penstock_runtime.batch import Batch, BatchPlan
from penstock_runtime.batch_staging import staged_merge
from penstock_runtime.config import ModelConfig, ModelParameter
from penstock_runtime.memory.staging import Deck
from penstock_runtime.request import InferRequest
from penstock_runtime.scheduling.base import Pending
from penstock_runtime.stream import ResponseStream

_OPTIONS = {"kernel": "image_normalise", "height": "224", "mean": "0.5", "deviation": "0.25"}


class Images:
    """A batch of photographs, and an instance that normalises them; on the CPU with a deck that
    stands for a device's.
    """

    def __init__(
        self, count: int = 32, longest: int = 1080, kind: str = "KIND_GPU", deck: Deck | None = None
    ) -> None:
        parameters = {key: ModelParameter(said) for key, said in _OPTIONS.items()}
        config = ModelConfig(
            name="images", backend="kernel", max_batch_size=count, parameters=parameters
        )
        nowhere = Path()
        backend = KernelBackend()
        config = backend.complete(ModelSource(config, 1, nowhere, nowhere))
        made = backend.load(ModelSource(config, 1, nowhere, nowhere)).executable(
            Placement("images_0", kind)
        )
        assert isinstance(made, KernelExecutable)
        found = made.deck or deck
        assert found is not None
        staged = staged_merge(config, found, made.tables)
        assert staged is not None
        self._made, self._staged, self._plan = made, staged, BatchPlan(config, 1)
        self._members = _requests(count, longest)

    def joined(self) -> Any:
        """By the host, as on a CPU."""
        return self._pixels(self._plan.merge(Batch.of(self._members)))

    def packed(self) -> Any:
        """As they came, with their tables."""
        return self._pixels(self._staged(self._members))

    def ways(self) -> dict[str, Callable[[], Any]]:
        """Both, by name."""
        return {
            "joined by the host": self.joined,
            "packed with their tables": self.packed,
        }

    def _pixels(self, inputs: dict[str, Any]) -> Any:
        return self._made.execute(inputs, [])["PIXELS"]


def _requests(count: int, longest: int) -> list[Pending]:
    random = np.random.default_rng(0)
    made = []
    for height, width in random.integers(longest // 4, longest + 1, (count, 2)).tolist():
        image = random.integers(0, 256, (1, height, width, 3), np.uint8)
        request = InferRequest("images", ())
        made.append(Pending(request, ResponseStream(), {"IMAGE": image}, 1))
    return made
