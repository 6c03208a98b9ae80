"""One instance of an encoder: a merged batch of texts in, a row for each out."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from penstock_runtime.backends.base import Arrays
from penstock_runtime.backends.failure import execution_failure
from penstock_runtime.config import ModelConfig
from penstock_runtime.context import RequestContext
from penstock_runtime.datatype import AnyArray
from penstock_runtime.errors import InvalidArgument, PenstockError, Violation
from penstock_runtime.llm.encoders.asked import Asked, AskedReader
from penstock_runtime.llm.encoders.completion import RESULTS, TOKENS, text_inputs
from penstock_runtime.llm.encoders.encoder import Encoder
from penstock_runtime.llm.encoders.heads import activated, normalized
from penstock_runtime.llm.encoders.tokenizing import TextTokenizer, Tokens


class EncoderExecutable:
    """Tokenises, encodes and finishes the texts of a batch; the weights are shared."""

    def __init__(self, config: ModelConfig, encoder: Encoder, tokenizer: TextTokenizer) -> None:
        self._model = config.name
        self._encoder: Encoder | None = encoder
        self._tokenizer = tokenizer
        self._reader = AskedReader(encoder.spec)
        self._inputs = text_inputs(encoder.spec)
        self._outputs = frozenset(output.name for output in config.output)

    def execute(self, inputs: Arrays, contexts: Sequence[RequestContext]) -> Arrays:
        """The outputs of one batch. Raises what is wrong with a text, or the model's failure."""
        try:
            return self._execute(inputs, contexts)
        except PenstockError:
            raise
        except Exception as error:
            raise execution_failure(error, self._model) from error

    def close(self) -> None:
        """Let go of the weights."""
        self._encoder = None

    def _execute(
        self, inputs: Arrays, contexts: Sequence[RequestContext]
    ) -> Mapping[str, AnyArray]:
        encoder = self._encoder
        assert encoder is not None, "the instance has been closed"
        columns = [_texts(name, inputs[name]) for name in self._inputs]
        asked = self._asked(contexts, len(columns[0]))
        tokens = self._tokens(columns, asked, lower_case=encoder.spec.lower_case)
        with torch.inference_mode():
            rows = _finished(encoder, encoder.rows(tokens), asked)
            outputs = {RESULTS[encoder.spec.task]: rows.cpu().numpy()}
        outputs[TOKENS] = np.array([[len(one)] for one in tokens], np.uint32)
        return {name: array for name, array in outputs.items() if name in self._outputs}

    def _asked(self, contexts: Sequence[RequestContext], rows: int) -> list[Asked]:
        """What is asked of each row."""
        found: list[Asked] = []
        for context in contexts:
            found += [self._reader.read(context.parameters)] * context.batch_size
        # A batch of one request may come with a context that knows no rows.
        if len(found) != rows:
            found = [self._reader.read(contexts[0].parameters if contexts else {})] * rows
        return found

    def _tokens(
        self, columns: Sequence[list[str]], asked: Sequence[Asked], *, lower_case: bool
    ) -> list[Tokens]:
        first = [one.prompt + text for one, text in zip(asked, columns[0], strict=True)]
        columns = [first, *columns[1:]]
        if lower_case:
            columns = [[text.lower() for text in column] for column in columns]
        if len(columns) == 1:
            tokens = self._tokenizer.encode(columns[0])
        else:
            tokens = self._tokenizer.encode(list(zip(*columns, strict=True)))
        for one, wanted in zip(tokens, asked, strict=True):
            self._check(one, wanted)
        return tokens

    def _check(self, tokens: Tokens, asked: Asked) -> None:
        name, limit = self._inputs[-1], self._tokenizer.max_tokens
        if tokens.cut and not asked.truncate:
            raise _refused(
                name,
                f"{' and '.join(self._inputs)} of model '{self._model}' have more than {limit}"
                " tokens, the most that it takes; shorten them, or let them be cut (truncate)",
            )
        if not tokens.ids:
            raise _refused(name, f"{name} of model '{self._model}' has no tokens")


def _texts(name: str, array: AnyArray) -> list[str]:
    """The texts of an input of shape [rows, 1]."""
    found = []
    for data in array.reshape(-1).tolist():
        try:
            found.append(data if isinstance(data, str) else data.decode())
        except UnicodeDecodeError as error:
            raise _refused(name, f"{name} is not UTF-8 at byte {error.start}") from None
    return found


def _refused(name: str, text: str) -> InvalidArgument:
    return InvalidArgument(text, violations=(Violation(f"inputs[{name}]", text),), scheduled=True)


def _finished(encoder: Encoder, rows: Tensor, asked: Sequence[Asked]) -> Tensor:
    """Vectors of length 1 where that is asked for, logits as scores unless they are wanted raw."""
    if encoder.head is None:
        chosen = [not one.raw_scores for one in asked]
        return _where(chosen, activated(rows, encoder.spec.activation), rows)
    usual = encoder.head.normalizes
    chosen = [usual if one.normalize is None else one.normalize for one in asked]
    return _where(chosen, normalized(rows), rows)


def _where(chosen: Sequence[bool], these: Tensor, others: Tensor) -> Tensor:
    if all(chosen):
        return these
    if not any(chosen):
        return others
    return torch.where(torch.tensor(chosen, device=these.device)[:, None], these, others)
