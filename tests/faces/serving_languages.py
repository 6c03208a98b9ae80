"""One server with real language models: the trained one with two adapters, a tiny embedder and a
tiny reranker; and the clients that people have.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from openai import AsyncOpenAI, OpenAI
from tests.e2e.language_models import write_language_model
from tests.e2e.running import Running, ServerThread
from tests.llm.encoder_folders import as_sentences, write_encoder
from tests.llm.lora_folders import write as write_adapter
from tests.rest.serving import http_options, url

ADAPTERS = ("loud", "quiet")
CHAT: list[Any] = [{"role": "user", "content": "what does len do?"}]
ANSWER = "Return the number of items in a container."
PRICE = 3.6
"""For an hour."""
_WIDTH, _LAYERS = 128, 3


def _adapter(folder: Path, seed: int) -> None:
    """An adapter of rank 2 on the queries of the trained model."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(_LAYERS):
        key = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        tensors[f"{key}.lora_A.weight"] = torch.randn(2, _WIDTH, generator=generator)
        tensors[f"{key}.lora_B.weight"] = torch.randn(_WIDTH, 2, generator=generator)
    config = {"target_modules": ["q_proj"]}
    write_adapter(folder, seed, rank=2, layers=(), config=config, tensors=tensors)


def write_repository(root: Path) -> None:
    """The models `tiny`, `embedder` and `reranker`."""
    listed = ",".join(f"{name}=adapters/{name}" for name in ADAPTERS)
    folder = write_language_model(
        root, "tiny", max_num_seqs=32, adapters=listed, price_per_hour=PRICE
    )
    for seed, name in enumerate(ADAPTERS):
        _adapter(folder / "1" / "adapters" / name, seed)
    as_sentences(write_encoder(root / "embedder"), "mean", "Normalize")
    write_encoder(root / "reranker", "bert", "ForSequenceClassification", num_labels=1)


@pytest.fixture(scope="package")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The server; what it was asked is in `calls.jsonl` beside its models."""
    root = tmp_path_factory.mktemp("languages")
    write_repository(root / "models")
    made = http_options(
        [root / "models"], call_log=str(root / "calls.jsonl"), call_log_content=True
    )
    with ServerThread(made) as server:
        yield server


@pytest.fixture(scope="package")
def client(running: Running) -> Iterator[OpenAI]:
    """OpenAI's client of it."""
    with OpenAI(base_url=url(running, "/v1"), api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture
def aclient(running: Running) -> AsyncOpenAI:
    """The same for coroutines; whoever uses it closes it."""
    return AsyncOpenAI(base_url=url(running, "/v1"), api_key="none", max_retries=0)


@pytest.fixture(scope="package")
def web(running: Running) -> Iterator[httpx.Client]:
    """A plain client."""
    with httpx.Client(base_url=url(running, ""), timeout=20) as made:
        yield made


def events(text: str) -> list[str]:
    """What the events of a stream say."""
    return [line.removeprefix("data: ") for line in text.split("\n\n") if line]
