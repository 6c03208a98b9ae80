"""What the end-to-end tests share: the demo repository, built once."""

import io
from pathlib import Path

import pytest
from examples.build_repository import build


@pytest.fixture(scope="session")
def demo_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository as examples/build_repository.py makes it."""
    pytest.importorskip("sklearn")
    repository = tmp_path_factory.mktemp("demo") / "repository"
    build(repository, stream=io.StringIO())
    return repository
