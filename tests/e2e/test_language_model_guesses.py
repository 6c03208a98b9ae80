"""Guessed tokens behind real sockets: the texts are those without, and a repository that asks for
what there is not says so.
"""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("transformers")
pytest.importorskip("llguidance")

import tritonclient.grpc as triton
from tests.e2e.language_models import TRAINED, ask, metrics, text_of, write_language_model
from tests.e2e.running import Running, ServerThread, options
from tritonclient.utils import InferenceServerException

WRONG = {
    "method": ({"speculative_method": "oracle"}, "expected none, ngram or draft_model"),
    "alone": ({"speculative_method": "draft_model"}, "expected a folder for the method"),
    "idle": ({"draft_model": "small"}, "expected a folder for the method draft_model, and for no"),
    "outside": (
        {"speculative_method": "draft_model", "draft_model": "../../tiny/1"},
        "expected a folder in the version's",
    ),
    "steps": ({"async_steps": "maybe"}, "async_steps is 'maybe', expected auto, on or off"),
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with a model that guesses nothing, and some that do; steps ahead change nothing."""
    root = tmp_path_factory.mktemp("guesses")
    write_language_model(root)
    write_language_model(root, "ngram", speculative_method="ngram", async_steps="on")
    drafted = write_language_model(
        root,
        "drafted",
        speculative_method="draft_model",
        draft_model="small",
        speculative_tokens=3,
    )
    shutil.copytree(TRAINED, drafted / "1" / "small")
    for name, (parameters, _) in WRONG.items():
        write_language_model(root, name, **parameters)
    loaded = ("tiny", "ngram", "drafted")
    with ServerThread(options([root], model_control_mode="explicit", load_model=loaded)) as made:
        yield made


@pytest.fixture
def client(running: Running) -> Iterator[Any]:
    with triton.InferenceServerClient(running.target) as made:
        yield made


@pytest.mark.parametrize("model", ["ngram", "drafted"])
def test_guesses_change_no_text(running: Running, client: Any, model: str) -> None:
    """Greedy, and at random by its seed; some of them were right."""
    for sampling in ({"temperature": 0.0}, {"temperature": 0.8, "seed": 5}):
        wish = ask("x = [1, 1, 1, 1, 1, 1,", max_tokens=24, ignore_eos=True, **sampling)
        assert text_of(client.infer(model, wish)) == text_of(client.infer("tiny", wish))

    assert metrics(running, model)["spec_decode_num_accepted_tokens_total"] > 0


@pytest.mark.parametrize("name", list(WRONG))
def test_an_option_that_makes_no_sense_refuses_the_model(client: Any, name: str) -> None:
    """By its name, with what was expected."""
    with pytest.raises(InferenceServerException, match=WRONG[name][1]):
        client.load_model(name)
