"""Tiny models of every family under whole engines, and what generate() makes of their prompts."""

from collections.abc import Iterator
from functools import lru_cache

import pytest
import torch
from tests.llm import tiny_models
from tests.llm.engine_driver import Asked, Driver

from penstock_runtime.llm.causal_model import LoadedCausalModel
from penstock_runtime.llm.model_loader import prepare
from penstock_runtime.llm.options import EngineOptions

COUNT = 16
SIZE = 4
OPTIONS = EngineOptions(block_size=SIZE, cpu_kernels="off", dtype="float32")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models are slower on more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@lru_cache(maxsize=1)
def case(family: str) -> tuple[LoadedCausalModel, list[list[int]], list[list[int]]]:
    """A model of a family, prompts, and what generate() puts after them."""
    module = tiny_models.build(family)
    prompts = tiny_models.prompts()
    wanted = [tiny_models.generated(module, p, COUNT)[len(p) :] for p in prompts]
    return prepare(module, OPTIONS), prompts, wanted


def in_company(driver: Driver, prompts: list[list[int]]) -> list[Asked]:
    """All prompts, answered: they come one by one, each beside a neighbour that is cancelled."""
    asked: list[Asked] = []
    for prompt in prompts:
        neighbour = driver.ask(prompt[:2] * 4, max_tokens=COUNT)
        driver.step()
        asked.append(driver.ask(prompt, max_tokens=COUNT))
        driver.step()
        neighbour.task.abandon()
    driver.run()
    return asked
