"""What a request says in its parameters of how its texts are to be treated.

`prompt_name` (also `input_type`) or `prompt` put a text in front of each, `truncate` false refuses
what is too long, `normalize` is about embeddings, `raw_scores` leaves out the activation.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from penstock_runtime.errors import InvalidArgument, Violation
from penstock_runtime.llm.encoders.spec import EncoderSpec
from penstock_runtime.request import Parameter, Parameters

# Two words for the texts that a query looks for.
_TWINS = {"passage": "document", "document": "passage"}
_KNOWN = frozenset({"prompt_name", "input_type", "prompt", "truncate", "normalize", "raw_scores"})


@dataclass(frozen=True, slots=True)
class Asked:
    """How the rows of one request are treated; None for `normalize`: as the model does."""

    prompt: str = ""
    truncate: bool = True
    normalize: bool | None = None
    raw_scores: bool = False


class AskedReader:
    """Reads the parameters of the requests to one model."""

    def __init__(self, spec: EncoderSpec) -> None:
        self._spec = spec
        prompt = spec.prompts.get(spec.default_prompt, "")
        self._usual = Asked(prompt=prompt, truncate=spec.truncate)

    def read(self, parameters: Parameters) -> Asked:
        """What a request asks for; InvalidArgument names a parameter that is no good."""
        if not parameters or _KNOWN.isdisjoint(parameters):
            return self._usual
        normalize = _flag(parameters, "normalize")
        truncate = _flag(parameters, "truncate")
        return Asked(
            prompt=self._prompt(parameters),
            truncate=self._usual.truncate if truncate is None else truncate,
            normalize=normalize,
            raw_scores=_flag(parameters, "raw_scores") is True,
        )

    def _prompt(self, parameters: Mapping[str, Parameter]) -> str:
        given = _text(parameters, "prompt")
        if given is not None:
            return given
        for key in ("prompt_name", "input_type"):
            name = _text(parameters, key)
            if name is not None:
                return self._named(key, name)
        return self._usual.prompt

    def _named(self, key: str, name: str) -> str:
        prompts = self._spec.prompts
        for known in (name, _TWINS.get(name, name)):
            if known in prompts:
                return prompts[known]
        shown = ", ".join(prompts) or "none"
        raise _refused(key, f"is {name[:64]!r}, model '{self._spec.model}' has the prompts {shown}")


def _text(parameters: Mapping[str, Parameter], key: str) -> str | None:
    found = parameters.get(key)
    if found is None or isinstance(found, str):
        return found
    raise _refused(key, f"is {str(found)[:32]}, expected a text")


def _flag(parameters: Mapping[str, Parameter], key: str) -> bool | None:
    found = parameters.get(key)
    if found is None or isinstance(found, bool):
        return found
    raise _refused(key, f"is {str(found)[:32]!r}, expected true or false")


def _refused(key: str, what: str) -> InvalidArgument:
    text = f"parameter {key} {what}"
    return InvalidArgument(text, violations=(Violation(f"parameters[{key}]", text),))
