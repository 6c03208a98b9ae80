"""One server with a model of each kind, and OpenAI's own client of it."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openai import OpenAI
from tests.e2e.running import MODELS, Running, ServerThread
from tests.openai_face.fake_text_model import write_all
from tests.rest.serving import http_options, url


@pytest.fixture(scope="package")
def text_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("language")
    write_all(root)
    return root


@pytest.fixture(scope="package")
def serving(text_models: Path) -> Iterator[Running]:
    with ServerThread(http_options([text_models, MODELS])) as made:
        yield made


@pytest.fixture(scope="package")
def client(serving: Running) -> Iterator[OpenAI]:
    with OpenAI(base_url=url(serving, "/v1"), api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture(scope="package")
def web(serving: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url(serving, ""), timeout=20) as made:
        yield made
