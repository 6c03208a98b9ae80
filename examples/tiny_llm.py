"""Trains a small Llama on Python's own standard library, and leaves it in Hugging Face's layout.

    python -m examples.tiny_llm --output FOLDER                 # what the demo has: a minute
    python -m examples.tiny_llm --output FOLDER --hidden 96 …   # another size

It writes text that looks like Python, and says in chat what everyday functions do. Size and number
of parameters never depend on the machine; a slow one takes fewer steps within the time.
"""

import argparse
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from examples import tiny_text
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from penstock.cli.progress import Progress

END, START, STOP = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SEED = 0


@dataclass(frozen=True, slots=True)
class Settings:
    """The shape of the model and how long it learns: `steps` at most, within `cpu_seconds`.

    `chat` is the share of the tokens that come from questions and answers, about the first `names`
    of those that there are.
    """

    vocab: int = 1024
    hidden: int = 96
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 256
    context: int = 512
    steps: int = 2000
    batch: int = 8
    window: int = 96
    cpu_seconds: float = 75.0
    chat: float = 0.5
    names: int = 88
    dtype: str = "float32"


@dataclass(frozen=True, slots=True)
class Report:
    """What came of it. Losses are in nats a token, over files that the model never saw; `unigram`
    is what counting tokens alone would give.
    """

    parameters: int
    steps: int
    cpu_seconds: float
    train_loss: float
    held_out_loss: float
    unigram_loss: float


def train(folder: Path, settings: Settings, advance: Callable[[float], None]) -> Report:
    """Train a model and write it into `folder`; `advance` hears the share that is newly done."""
    began = time.process_time()
    tokenizer = train_tokenizer(settings.vocab)
    advance(0.05)
    torch.manual_seed(SEED)
    model = LlamaForCausalLM(shape(settings, tokenizer))
    clock = Clock(settings, began)
    loss = fit(model, windows(tokenizer, settings), clock, advance)
    tokens = tokenizer.encode(tiny_text.held_out()).ids
    report = Report(
        sum(each.numel() for each in model.parameters()),
        clock.step,
        time.process_time() - began,
        loss,
        held_out_loss(model.eval(), tokens),
        unigram_loss(tokens),
    )
    save(folder, model, tokenizer, settings)
    advance(0.05)
    return report


# -- text ------------------------------------------------------------------------------------------


def train_tokenizer(vocab: int) -> Tokenizer:
    """A byte-level BPE of so many tokens, the special ones among them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[END, START, STOP],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts_for_tokens(), trainer)
    return tokenizer


def _texts_for_tokens() -> list[str]:
    """A part of the sources is enough to find what is frequent; answers count as often."""
    answers = [each.answer for each in tiny_text.answered()]
    return [*tiny_text.sources()[::4], *tiny_text.topics()[::4], *answers * 8]


def conversation(each: tiny_text.Answered, generator: random.Random) -> str:
    """A question and its answer in the form of the chat template, some with a system message."""
    turns = [("user", generator.choice(each.questions)), ("assistant", each.answer)]
    if generator.random() < 0.2:
        turns.insert(0, ("system", tiny_text.SYSTEM))
    return "".join(f"{START}{role}\n{text}{STOP}\n" for role, text in turns) + END


def windows(tokenizer: Tokenizer, settings: Settings) -> Iterator[Any]:
    """Batches INT64[batch, window + 1] without end: rows of programs and rows of conversations."""
    generator = random.Random(SEED)
    texts = [*tiny_text.sources(), *tiny_text.topics()]
    programs = _encode(tokenizer, [text + END for text in texts])
    known = tiny_text.answered()[: settings.names]
    rounds = [
        conversation(each, generator) for _ in range(40) for each in shuffled(known, generator)
    ]
    chats = _encode(tokenizer, rounds)
    while True:
        rows = []
        for row in range(settings.batch):
            source = chats if row < settings.chat * settings.batch else programs
            begin = generator.randrange(len(source) - settings.window - 1)
            rows.append(source[begin : begin + settings.window + 1])
        yield torch.stack(rows)


def shuffled(known: Sequence[tiny_text.Answered], generator: random.Random) -> list[Any]:
    """The same in another order."""
    return generator.sample(known, len(known))


def _encode(tokenizer: Tokenizer, texts: Sequence[str]) -> Any:
    encoded = tokenizer.encode_batch(list(texts))
    return torch.tensor([token for each in encoded for token in each.ids])


# -- learning --------------------------------------------------------------------------------------


class Clock:
    """How far the training is: by its steps, or by its time where that runs out first."""

    def __init__(
        self, settings: Settings, began: float, now: Callable[[], float] = time.process_time
    ) -> None:
        self._settings = settings
        self._now = now
        self._start = now()
        # Measuring and writing come after the last step.
        self._limit = 0.95 * settings.cpu_seconds - (self._start - began)
        self.step = 0

    @property
    def share(self) -> float:
        """The part that is done, 0 to 1."""
        spent = (self._now() - self._start) / max(self._limit, 1e-6)
        return min(max(self.step / self._settings.steps, spent), 1.0)

    @property
    def rate(self) -> float:
        """What the learning rate is multiplied with: a short warm-up, then down to nothing."""
        return min(self.step / 20 + 0.05, 1.0) * (1.0 - self.share)


def shape(settings: Settings, tokenizer: Tokenizer) -> LlamaConfig:
    """The configuration of the model."""
    return LlamaConfig(
        vocab_size=settings.vocab,
        hidden_size=settings.hidden,
        intermediate_size=settings.intermediate,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.kv_heads,
        max_position_embeddings=settings.context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.token_to_id(END),
        initializer_range=0.02,
    )


def fit(
    model: LlamaForCausalLM,
    batches: Iterator[Any],
    clock: Clock,
    advance: Callable[[float], None],
) -> float:
    """Train until the clock is at its end; the mean loss of the last steps."""
    optimizers = _optimizers(model)
    losses: list[float] = []
    done = 0.0
    while (share := clock.share) < 1.0:
        advance(0.9 * (share - done))
        done = share
        losses.append(_step(model, next(batches), optimizers, clock.rate))
        clock.step += 1
    advance(0.9 * (1.0 - done))
    recent = losses[-50:]
    return sum(recent) / max(len(recent), 1)


def _optimizers(model: LlamaForCausalLM) -> list[tuple[Any, float]]:
    """Muon for the matrices inside, which learn about twice as fast by it; AdamW for the rest."""
    inner = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    muon = torch.optim.Muon(inner, lr=MUON, weight_decay=0.01)
    adam = torch.optim.AdamW(rest, lr=ADAM, betas=(0.9, 0.98), weight_decay=0.0)
    return [(muon, MUON), (adam, ADAM)]


MUON = 0.03
ADAM = 0.006


def _step(
    model: LlamaForCausalLM, batch: Any, optimizers: Sequence[tuple[Any, float]], rate: float
) -> float:
    logits = model(batch[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
    torch.autograd.backward(loss)
    for optimizer, full in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = full * rate
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def held_out_loss(model: LlamaForCausalLM, tokens: Sequence[int], window: int = 256) -> float:
    """The mean loss over whole windows of tokens."""
    rows = torch.tensor(tokens[: len(tokens) // window * window]).view(-1, window)[:32]
    with torch.inference_mode():
        logits = model(rows[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
    return loss.item()


def unigram_loss(tokens: Sequence[int]) -> float:
    """The entropy of the tokens, each taken by itself."""
    counts = torch.bincount(torch.tensor(tokens)).double()
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * shares.log()).sum())


# -- what is written -------------------------------------------------------------------------------


def save(folder: Path, model: LlamaForCausalLM, tokenizer: Tokenizer, settings: Settings) -> None:
    """Weights, tokenizer, chat template and defaults, as transformers and vLLM read them."""
    stop = [tokenizer.token_to_id(STOP), tokenizer.token_to_id(END)]
    model.generation_config.eos_token_id = stop
    model.generation_config.pad_token_id = stop[1]
    model.to(getattr(torch, settings.dtype)).save_pretrained(folder)
    # Written for its owner alone, whoever is to serve it.
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save(str(folder / "tokenizer.json"))
    document = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END,
        "pad_token": END,
        "additional_special_tokens": [START, STOP],
        "model_max_length": settings.context,
        "clean_up_tokenization_spaces": False,
        "chat_template": TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(document, indent=2) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as the command line says, and tell what came of it."""
    parser = argparse.ArgumentParser(description="Train a tiny language model on Python itself.")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--shares", action="store_true", help="print the share that is newly done")
    for field in fields(Settings):
        option = "--" + field.name.replace("_", "-")
        parser.add_argument(option, type=type(field.default), default=field.default)
    chosen = vars(parser.parse_args(arguments))
    folder: Path = chosen.pop("output")
    folder.mkdir(parents=True, exist_ok=True)
    # There is one bar already.
    logging.disable_progress_bar()
    if chosen.pop("shares"):
        train(folder, Settings(**chosen), lambda share: print(f"{share:.6f}", flush=True))
        return 0
    with Progress("training", 1.0) as progress:
        report = train(folder, Settings(**chosen), progress.advance)
    for line in fields(report):
        print(f"{line.name:>14}  {getattr(report, line.name):,.4g}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
