"""A generative model of a running server: found by its tensors, asked with those that it has."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from penstock.cli.command import CommandError
from penstock.client.errors import InferenceError
from penstock.client.inputs import InputValue
from penstock.client.result import InferResult
from penstock.client.sync import Client
from penstock_runtime.datatype import AnyArray
from penstock_runtime.errors import Status

# A model that takes these is one that generates.
SAMPLING = "sampling_parameters"
TEXT, MESSAGES = "text_input", "messages"
TOLD = (
    *("text_output", "finish_reason", "stop_reason", "index", "num_input_tokens"),
    *("num_output_tokens", "cached_tokens", "ttft_ns", "queue_ns", "itl_mean_ns", "compute_ns"),
)
FLAGS = (
    *("return_finish_reason", "return_num_input_tokens", "return_num_output_tokens"),
    "exclude_input_in_output",
)


@dataclass(frozen=True, slots=True)
class Generative:
    """A generative model by its name and version, and what it takes and gives."""

    name: str
    version: str
    inputs: frozenset[str]
    outputs: frozenset[str]

    def request(
        self, source: Mapping[str, str], sampling: Mapping[str, Any], *, streams: bool
    ) -> tuple[dict[str, InputValue], list[str]]:
        """Inputs and names of outputs of a request; `source` is the text or the messages."""
        for name in source:
            if name not in self.inputs:
                raise CommandError(f"model {self.name} takes no {name}")
        inputs: dict[str, InputValue] = {name: text(value) for name, value in source.items()}
        if streams and "stream" in self.inputs:
            inputs["stream"] = flag()
        inputs |= {name: flag() for name in FLAGS if name in self.inputs}
        wanted = [name for name in TOLD if name in self.outputs]
        if "logprobs" in sampling:
            inputs |= {"return_logprobs": flag()} if "return_logprobs" in self.inputs else {}
            wanted += ["logprobs"] if "logprobs" in self.outputs else []
        if sampling:
            inputs[SAMPLING] = text(json.dumps(sampling))
        return inputs, wanted

    @contextmanager
    def ask(
        self,
        client: Client,
        source: Mapping[str, str],
        sampling: Mapping[str, Any],
        *,
        streams: bool = True,
    ) -> Iterator[Iterator[InferResult]]:
        """The answers to one request, delta by delta or whole; leaving early ends it there too."""
        inputs, outputs = self.request(source, sampling, streams=streams)
        if not streams:
            yield iter([client.infer(self.name, inputs, version=self.version, outputs=outputs)])
            return
        with client.stream(self.name, inputs, version=self.version, outputs=outputs) as answers:
            yield answers


def text(value: str) -> AnyArray:
    """A tensor BYTES[1]."""
    return np.array([value.encode()], object)


def flag() -> AnyArray:
    """A tensor BOOL[1] that is set."""
    return np.array([True])


def describe(client: Client, name: str, version: str = "") -> Generative | None:
    """The model if it is generative, else None; InferenceError if it is not there."""
    metadata = client.model_metadata(name, version)
    inputs = frozenset(each.name for each in metadata.inputs)
    if not {SAMPLING, TEXT} <= inputs:
        return None
    return Generative(name, version, inputs, frozenset(each.name for each in metadata.outputs))


def generative_models(client: Client) -> list[Generative]:
    """The generative models among those that are ready, by name."""
    names = sorted({entry.name for entry in client.index(ready=True)})
    return [found for name in names if (found := _described(client, name)) is not None]


def _described(client: Client, name: str) -> Generative | None:
    try:
        return describe(client, name)
    except InferenceError as error:
        # It was unloaded in the meantime.
        if error.status in (Status.NOT_FOUND, Status.UNAVAILABLE):
            return None
        raise


def find_model(client: Client, name: str, version: str = "") -> Generative:
    """The model of this name, or the only one there is; CommandError says why there is none."""
    if not name:
        return only_model(client)
    found = describe(client, name, version)
    if found is None:
        hint = _names(generative_models(client))
        raise CommandError(f"model {name} does not generate text: it has no {SAMPLING} ({hint})")
    return found


def only_model(client: Client) -> Generative:
    """The one generative model of the server; CommandError where there are none or several."""
    found = generative_models(client)
    if len(found) == 1:
        return found[0]
    if not found:
        raise CommandError("the server has no generative model (penstock models lists what it has)")
    raise CommandError(f"which model? {_names(found)}")


def _names(found: Sequence[Generative]) -> str:
    names = ", ".join(each.name for each in found)
    return f"those that do are {names}" if names else "the server has none that does"
