"""Inputs that a model takes in another datatype than its clients send: the parameter `batch_cast`.

    parameters { key: "batch_cast" value: { string_value: "PIXELS: FP16, SCALE: BF16" } }

They are cast while a batch is put together, which costs no pass of its own.
"""

from collections.abc import Mapping

from penstock_runtime.config import ModelConfig
from penstock_runtime.datatype import BY_WIRE_NAME, DataType
from penstock_runtime.errors import InvalidArgument

PARAMETER = "batch_cast"
CASTS: Mapping[DataType, tuple[DataType, ...]] = {
    DataType.FP32: (DataType.FP16, DataType.BF16),
    DataType.INT64: (DataType.INT32,),
    DataType.UINT8: (DataType.FP16,),
}


def casts_of(config: ModelConfig) -> Mapping[str, DataType]:
    """The datatypes of inputs that are cast. InvalidArgument for what cannot be."""
    said = config.parameter(PARAMETER)
    if not said.strip():
        return {}
    if config.dynamic_batching is None:
        raise _refusal(
            config, said, "only where there is dynamic_batching, which makes the batches"
        )
    found = {}
    for part in said.split(","):
        name, _, wanted = (piece.strip() for piece in part.partition(":"))
        declared = config.find_input(name)
        if declared is None:
            inputs = ", ".join(one.name for one in config.input)
            raise _refusal(config, part, f"NAME: DATATYPE, the name one of {inputs}")
        allowed = CASTS.get(declared.data_type, ())
        datatype = BY_WIRE_NAME.get(wanted.removeprefix("TYPE_"))
        if datatype not in allowed or declared.is_shape_tensor:
            names = ", ".join(one.value for one in allowed) or "no datatype"
            raise _refusal(config, part, f"{names} for '{name}', a {declared.data_type.value}")
        assert datatype is not None
        found[name] = datatype
    return found


def _refusal(config: ModelConfig, said: str, expected: str) -> InvalidArgument:
    return InvalidArgument(
        f"model '{config.name}': parameter {PARAMETER} has {said.strip()[:64]!r}, expected"
        f" {expected}"
    )
