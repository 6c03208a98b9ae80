"""Laws of a torch that is built for the CPU on a machine with GPUs: its models are served there."""

import importlib.util
import logging
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from penstock_runtime.backends import host
from penstock_runtime.backends.llm.backend import LanguageModelBackend
from penstock_runtime.backends.torch import TorchBackend
from penstock_runtime.backends.torchserve.backend import TorchServeBackend


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    host.torch_uses_gpus.cache_clear()
    yield
    host.torch_uses_gpus.cache_clear()


@pytest.mark.parametrize(
    ("version", "uses"),
    [
        ("cuda: Optional[str] = '13.0'\nhip: Optional[str] = None\n", True),
        ("cuda: Optional[str] = None\nhip: Optional[str] = None\n", False),
        ("cuda = None\n", False),
        (None, True),
    ],
)
def test_instances_of_no_kind_go_to_a_gpu_if_torch_is_built_for_it(
    version: str | None,
    uses: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """That is read off its files. Where there is no torch, whoever loads the model says so."""
    spec = ModuleSpec("torch", None, origin=str(tmp_path / "__init__.py"))
    if version is not None:
        (tmp_path / "version.py").write_text(version)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: spec if version else None)
    monkeypatch.setattr(host, "cuda_device_count", lambda: 2)

    with caplog.at_level(logging.WARNING):
        found = [
            backend.uses_gpu
            for backend in (TorchBackend(), LanguageModelBackend(), TorchServeBackend())
        ]

    assert found == [uses] * 3
    assert caplog.text.count("built for the CPU") == (0 if uses else 1)
