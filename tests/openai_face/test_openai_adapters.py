"""The names under which the adapters of models may be asked for."""

from types import SimpleNamespace
from typing import Any

from penstock.generative.adapters import adapted, adapters_of
from penstock_runtime.config import ModelConfig, ModelParameter


def config(name: str = "m", **parameters: str) -> ModelConfig:
    """A configuration with these parameters."""
    return ModelConfig(name, parameters={k: ModelParameter(v) for k, v in parameters.items()})


def test_adapters_are_read_from_the_parameter_that_lists_them() -> None:
    """Blanks are none of their names."""
    found = adapters_of(config(adapters=" a=lora/a, b = lora/b ,"))

    assert found == {"a": "lora/a", "b": "lora/b"}
    assert adapters_of(config()) == {}


def test_an_adapter_whose_name_is_not_its_own_is_named_with_its_model() -> None:
    """It would not be known which of them is meant."""
    models: list[Any] = [
        SimpleNamespace(config=config("m", adapters="a=x,b=y,n=z")),
        SimpleNamespace(config=config("n", adapters="a=w")),
    ]

    found = adapted(models, {"m", "n"})

    assert [each.id for each in found] == ["m:a", "b", "m:n", "n:a"]
    assert [each.path for each in found] == ["x", "y", "z", "w"]
