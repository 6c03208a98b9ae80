"""What a configuration may ask for and this version does not do: refused at load, never ignored.

A model that needs its batches described and is served without that gives wrong answers; one that
does not load says why.
"""

from penstock_runtime.config import ModelConfig
from penstock_runtime.errors import Unsupported


def refuse_unavailable(config: ModelConfig) -> None:
    """Raise Unsupported for the first thing that this version would have to ignore."""
    ragged = any(one.allow_ragged_batch for one in config.input)
    ragged = ragged or bool(config.batch_input or config.batch_output)
    asked = ((config.sequence_batching is not None and ragged, "ragged batches of sequences"),)
    for wanted, field in asked:
        if wanted:
            raise Unsupported(
                f"model '{config.name}' asks for {field}, which is not available in this version",
                reason="NOT_AVAILABLE",
            )
