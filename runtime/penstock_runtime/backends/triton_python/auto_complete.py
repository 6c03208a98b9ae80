"""What a model's `auto_complete_config` fills in, and the configuration that comes of it."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from penstock_runtime.backends.failure import load_failure
from penstock_runtime.config import ModelConfig as Configuration
from penstock_runtime.config_reader import config_to_dict, read_config
from penstock_runtime.errors import InvalidArgument, PenstockError


class ModelConfig:
    """A configuration that can be filled in, never changed. ValueError says what contradicts it."""

    def __init__(self, model_config: str) -> None:
        self._config: dict[str, Any] = json.loads(model_config)

    def as_dict(self) -> dict[str, Any]:
        """The configuration as it stands."""
        return self._config

    def set_max_batch_size(self, max_batch_size: int) -> None:
        """Set the most rows of a batch; the configuration may not say more."""
        said = self._config.get("max_batch_size", 0)
        if said > max_batch_size:
            raise ValueError(self._conflict("max_batch_size", said, max_batch_size))
        self._config["max_batch_size"] = max_batch_size

    def set_dynamic_batching(self) -> None:
        """Batch requests, unless the configuration says how already."""
        for other in ("sequence_batching", "ensemble_scheduling"):
            if other in self._config:
                raise ValueError(self._conflict("the scheduler", other, "dynamic_batching"))
        self._config.setdefault("dynamic_batching", {})

    def add_input(self, input: Mapping[str, Any]) -> None:  # noqa: A002 - the name is fixed
        """Add an input: name, data_type, dims and maybe optional."""
        self._add("input", input, ("name", "data_type", "dims", "optional"))

    def add_output(self, output: Mapping[str, Any]) -> None:
        """Add an output: name, data_type and dims."""
        self._add("output", output, ("name", "data_type", "dims"))

    def set_model_transaction_policy(self, transaction_policy_dict: Mapping[str, Any]) -> None:
        """Say whether the model is `decoupled`."""
        for key in transaction_policy_dict:
            if key != "decoupled":
                raise ValueError(
                    self._text(f"model_transaction_policy has no '{key}', only decoupled")
                )
        if "decoupled" not in transaction_policy_dict:
            return
        policy = self._config.setdefault("model_transaction_policy", {})
        wanted = transaction_policy_dict["decoupled"]
        # What is not set reads as false, so only true is known to have been said.
        if policy.get("decoupled") and not wanted:
            raise ValueError(self._conflict("decoupled", True, wanted))
        policy["decoupled"] = wanted

    def _add(self, kind: str, tensor: Mapping[str, Any], known: tuple[str, ...]) -> None:
        name = tensor.get("name", "")
        for key in tensor:
            if key not in known:
                raise ValueError(
                    self._text(f"{kind} '{name}' has no '{key}', only {', '.join(known)}")
                )
        for key in known[:3]:
            if key not in tensor:
                raise ValueError(self._text(f"{kind} '{name}' is missing '{key}'"))
        listed = self._config.setdefault(kind, [])
        said = next((each for each in listed if each["name"] == name), None)
        if said is None:
            listed.append(dict(tensor))
        else:
            self._fill(kind, name, said, tensor)

    def _fill(self, kind: str, name: str, said: dict[str, Any], tensor: Mapping[str, Any]) -> None:
        what = f"of {kind} '{name}'"
        if said.get("data_type") not in (None, "TYPE_INVALID", tensor["data_type"]):
            raise ValueError(
                self._conflict(f"data_type {what}", said["data_type"], tensor["data_type"])
            )
        if said.get("dims") and list(said["dims"]) != list(tensor["dims"]):
            raise ValueError(self._conflict(f"dims {what}", said["dims"], tensor["dims"]))
        if said.get("optional") and tensor.get("optional") is False:
            raise ValueError(self._conflict(f"optional {what}", True, False))
        said.update(tensor)

    def _conflict(self, what: str, configured: object, coded: object) -> str:
        return self._text(f"{what} is {configured} in the configuration, the model says {coded}")

    def _text(self, text: str) -> str:
        return f"auto_complete_config of model '{self._config.get('name', '')}': {text}"


def completed(config: Configuration, target: Any, backend: str) -> Configuration:
    """The configuration with what the class of the model fills in."""
    config = replace(config, backend=config.backend or backend)
    hook = getattr(target, "auto_complete_config", None)
    if hook is None:
        return config
    builder = ModelConfig(json.dumps(config_to_dict(config, full=True)))
    try:
        returned = hook(builder)
    except PenstockError:
        raise
    except ValueError as error:
        raise InvalidArgument(str(error)) from error
    except (Exception, SystemExit) as error:
        raise load_failure(error, config.name, "auto_complete_config") from error
    if not isinstance(returned, ModelConfig):
        raise InvalidArgument(
            f"auto_complete_config of model '{config.name}' must return the ModelConfig that it was"
            f" given, got a {type(returned).__name__}"
        )
    found = read_config(returned.as_dict())
    return replace(
        config,
        max_batch_size=found.max_batch_size,
        input=found.input,
        output=found.output,
        dynamic_batching=found.dynamic_batching,
        model_transaction_policy=found.model_transaction_policy,
    )
