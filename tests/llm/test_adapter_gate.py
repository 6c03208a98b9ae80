"""Requests with adapters: they wait for a slot and for nothing else, and harm no others."""

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.llm import lora_folders
from tests.llm.engine_driver import Asked, Driver, drive

from penstock_runtime.errors import InvalidArgument, NotFound
from penstock_runtime.llm.adapter_gate import AdaptedRunner, AdapterGate
from penstock_runtime.llm.lora import Adapters
from penstock_runtime.llm.model_loader import prepare
from penstock_runtime.llm.options import EngineOptions
from penstock_runtime.llm.runner import PagedRunner

PROMPT = [3, 14, 15, 9, 26, 5]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for seed, name in enumerate("abc", 1):
        lora_folders.write(tmp_path / name, seed)
    return tmp_path


def adapted(home: Path, slots: int = 4) -> tuple[Driver, Adapters]:
    torch.set_num_threads(1)
    options = EngineOptions(
        adapters="a=a,b=b,c=c", max_loras=slots, cpu_kernels="off", block_size=4, threads=1
    )
    loaded = prepare(lora_folders.model(), options)
    adapters = Adapters(loaded.model, options, home)
    runner = AdaptedRunner(PagedRunner(loaded, options, 64), adapters)
    return drive(runner, loaded.vocab_size, gate=AdapterGate(adapters)), adapters


def ask(driver: Driver, name: str, **more: Any) -> Asked:
    named: dict[str, Any] = {"adapter_id": name} if name else {}
    return driver.ask(PROMPT, max_tokens=8, **named, **more)


def alone(home: Path, name: str) -> list[int]:
    driver, _ = adapted(home)
    asked = ask(driver, name)
    driver.run()
    return asked.ids


def test_each_text_is_that_of_its_own_adapter_whoever_else_is_in_the_batch(home: Path) -> None:
    driver, _ = adapted(home)

    asked = {name: ask(driver, name) for name in ("a", "", "b", "c")}
    driver.run()

    texts = {name: one.ids for name, one in asked.items()}
    assert texts == {name: alone(home, name) for name in texts}
    assert len({tuple(text) for text in texts.values()}) == 4
    driver.assert_empty()


def test_who_finds_no_slot_waits_for_one_and_keeps_nobody_else_waiting(home: Path) -> None:
    driver, adapters = adapted(home, slots=1)

    first, second, plain = ask(driver, "a"), ask(driver, "b"), ask(driver, "")
    driver.step()
    begun = [bool(one.ids) for one in (first, second, plain)]
    driver.run()

    assert begun == [True, False, True]
    assert (first.ids, second.ids) == (alone(home, "a"), alone(home, "b"))
    assert adapters.stats().in_use == 0
    assert adapters.stats().evictions == 1


def test_one_that_gives_up_while_it_waits_takes_no_slot(home: Path) -> None:
    driver, adapters = adapted(home, slots=1)
    first, second, third = (ask(driver, name) for name in "abc")
    driver.step()

    second.task.abandon()
    driver.run()

    assert not second.ids
    assert "b" not in adapters.loaded
    assert third.ids == alone(home, "c")
    assert first.ids == alone(home, "a")


def test_an_adapter_that_is_not_offered_is_refused_with_those_that_are(home: Path) -> None:
    driver, _ = adapted(home)

    with pytest.raises(NotFound, match="there is no adapter 'd', only a, b, c"):
        ask(driver, "d")

    driver.run()
    driver.assert_empty()


def test_a_model_without_adapters_refuses_them_by_name() -> None:
    torch.set_num_threads(1)
    options = EngineOptions(cpu_kernels="off", block_size=4)
    loaded = prepare(lora_folders.model(), options)
    driver = drive(PagedRunner(loaded, options, 64), loaded.vocab_size)

    with pytest.raises(InvalidArgument, match="adapter 'a' is not among the model's"):
        ask(driver, "a")


def test_prefixes_of_one_adapter_are_not_those_of_another(home: Path) -> None:
    driver, _ = adapted(home)
    ask(driver, "a")
    driver.run()

    other, same = ask(driver, "b"), ask(driver, "a")
    driver.run()

    cached = [one.generation.choices[0].sequence.cached_tokens for one in (other, same)]
    assert cached == [0, 4]
    assert other.ids == alone(home, "b")


def test_an_adapter_that_is_put_into_the_folder_for_them_is_offered_at_once(home: Path) -> None:
    torch.set_num_threads(1)
    options = EngineOptions(adapters="*=more", max_loras=2, cpu_kernels="off", block_size=4)
    (home / "more").mkdir()
    loaded = prepare(lora_folders.model(), options)
    adapters = Adapters(loaded.model, options, home)
    runner = AdaptedRunner(PagedRunner(loaded, options, 64), adapters)
    driver = drive(runner, loaded.vocab_size, gate=AdapterGate(adapters))
    with pytest.raises(NotFound, match="there is no adapter 'a', only none"):
        ask(driver, "a")

    lora_folders.write(home / "more" / "a", 1)
    asked = ask(driver, "a")
    driver.run()

    assert asked.ids == alone(home, "a")
    for name in ("../a", "more/a", "."):
        with pytest.raises(NotFound):
            ask(driver, name)
