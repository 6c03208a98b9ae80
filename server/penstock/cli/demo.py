"""`penstock demo`: the demo models at work, and how to call them from elsewhere."""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

import penstock
from penstock.cli.command import CommandError
from penstock.cli.connection import add_connection, connected, explain, is_unreachable
from penstock.cli.demo_calls import print_calls
from penstock.cli.demo_pictures import gallery
from penstock.cli.demo_text import show_text
from penstock.cli.generative import generative_models
from penstock.cli.terminal import Paint, heading
from penstock.client.errors import InferenceError
from penstock.client.sync import Client
from penstock_runtime.datatype import AnyArray
from penstock_runtime.errors import Status

DESCRIPTION = """Show the models of the demo repository at work: handwritten digits that the
classifier has never seen, sentences found by their meaning, a stream of answers as they arrive, a
language model that writes and explains; then the same calls as lines for tritonclient and grpcurl.
`make run` builds the repository and serves it."""
EXAMPLES = (
    "make run          # in one terminal",
    "penstock demo     # in another",
    "penstock demo --url gpu-host:8001 --samples demo_digits.npz",
)
HELD_OUT = Path("examples/repository/demo_digits.npz")
SHOWN = 10
CHUNK = 32
BRIGHTEST = 16.0
SENTENCES = (
    "The river turns the wheel of the mill.",
    "A gate in the dam controls how much water flows.",
    "She baked bread with rye flour and caraway.",
    "The orchestra tuned their violins before the concert.",
    "A graphics card multiplies matrices in parallel.",
    "The train to the mountains leaves at dawn.",
    "Neural networks learn from many examples.",
    "He planted tomatoes and basil in the garden.",
    "The court postponed the verdict until Friday.",
)
QUESTIONS = ("hydroelectric power", "cooking and kitchens", "deep learning hardware")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument(
        "--samples", type=Path, metavar="FILE", help=f"held-out digits (default: {HELD_OUT})"
    )
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Show what the server has of the demo's models; 2 when it has none of them."""
    samples = args.samples or find_samples()
    with connected(args) as client:
        _check_reachable(client, args.url)
        sections: list[tuple[str, str, Callable[[], None]]] = [
            ("digits", "what is written here?", lambda: show_digits(client, samples)),
            ("minilm", "which sentence means the like?", lambda: show_meaning(client)),
            ("repeat", "answers as they come", lambda: show_stream(client)),
        ]
        writer = next((model for model in generative_models(client)), None)
        if writer is not None:
            show = partial(show_text, client, writer)
            sections.append((writer.name, "a text as it is written", show))
        shown = [name for name, about, show in sections if _section(name, about, show)]
    if not shown:
        raise CommandError(f"{args.url} has no model of the demo; start it with: make run")
    print_calls(args.url, _first_image(samples), shown)
    return 0


def find_samples() -> Path | None:
    """The held-out digits beside the demo repository, from here or from where penstock lies."""
    checkout = Path(penstock.__file__).resolve().parents[2]
    places = (Path.cwd() / HELD_OUT, checkout / HELD_OUT)
    return next((place for place in places if place.is_file()), None)


def read_samples(path: Path) -> tuple[AnyArray, AnyArray]:
    """Images FP32[n, 8, 8] and their labels INT64[n]."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return file["images"].astype(np.float32), file["labels"].astype(np.int64)
    except (ValueError, KeyError, EOFError) as error:
        raise CommandError(f"{path} holds no images and labels of digits: {error}") from None


def _first_image(path: Path | None) -> AnyArray:
    return np.zeros((8, 8), np.float32) if path is None else read_samples(path)[0][0]


def _check_reachable(client: Client, url: str) -> None:
    try:
        client.server_live()
    except InferenceError as error:
        if is_unreachable(error):
            raise CommandError(
                f"no server answers at {url}; start the demo's with: make run"
                " (or penstock serve examples/repository)"
            ) from None
        raise CommandError(explain(error, url)) from error


def _section(model: str, about: str, show: Callable[[], None]) -> bool:
    print(Paint(sys.stdout)("\n" + heading(f"{model}: {about}"), "bold"))
    try:
        show()
    except InferenceError as error:
        if error.status is not Status.NOT_FOUND:
            raise
        print(f"the server has no model {model!r} (penstock models lists what it has)")
        return False
    return True


def show_digits(client: Client, samples: Path | None) -> None:
    """Ten digits as pictures with the answers, and the accuracy over all that were held out."""
    if samples is None:
        # Asked all the same: a server without the model is not to be taken for the demo's.
        client.model_metadata("digits")
        print(f"no held-out digits at {HELD_OUT}; python examples/build_repository.py makes them")
        return
    images, labels = read_samples(samples)
    began = time.monotonic_ns()
    probabilities = classify(client, images)
    seconds = (time.monotonic_ns() - began) / 1e9
    answers = probabilities.argmax(axis=1)
    some = choose(answers, labels)
    captions = [caption(answers[i], labels[i], probabilities[i].max()) for i in some]
    print(gallery([images[i] for i in some], captions, BRIGHTEST))
    right = int((answers == labels).sum())
    print(
        f"\n{right} of {len(labels)} images that the model has never seen are right"
        f" ({right / len(labels):.1%}), {seconds * 1e3:.0f} ms for all of them"
    )


def classify(client: Client, images: AnyArray) -> AnyArray:
    """Probabilities FP32[n, 10] of images FP32[n, 8, 8], a chunk a request."""
    chunks = [images[begin : begin + CHUNK] for begin in range(0, len(images), CHUNK)]
    parts = [client.infer("digits", {"IMAGE": each})["PROBABILITIES"] for each in chunks]
    return np.concatenate(parts)


def choose(answers: AnyArray, labels: AnyArray) -> list[int]:
    """Ten images to show: the first of each digit, with the first mistake instead of its own."""
    first = {int(label): index for index, label in reversed(list(enumerate(labels)))}
    for index in np.flatnonzero(answers != labels)[:1].tolist():
        first[int(labels[index])] = index
    return [first[label] for label in sorted(first)][:SHOWN]


def caption(answer: int, label: int, probability: float) -> str:
    """The answer, whether it is right, and how sure the model is."""
    verdict = "✓" if answer == label else f"✗ it is {label}"
    return f"{answer} {verdict}  {probability:.0%}"


def show_meaning(client: Client) -> None:
    """For each question the sentences that are nearest in meaning, none of which has its words."""
    known = embed(client, SENTENCES)
    for question, vector in zip(QUESTIONS, embed(client, QUESTIONS), strict=True):
        likeness = known @ vector
        print(f"{question!r} is nearest to")
        for index in np.argsort(-likeness)[:2].tolist():
            print(f"   {likeness[index]:5.2f}  {SENTENCES[index]}")


def embed(client: Client, texts: tuple[str, ...]) -> AnyArray:
    """Unit vectors FP32[n, 384] of texts."""
    result = client.infer("minilm", {"TEXT": [[text] for text in texts]})
    return result["EMBEDDING"]


def show_stream(client: Client) -> None:
    """Eight answers to one request, each printed when it arrives."""
    values = np.array([2**power for power in range(8)], np.int32)
    delays = np.full(len(values), 100, np.uint32)
    inputs = {"IN": values, "DELAY": delays, "WAIT": np.array([0], np.uint32)}
    began = time.monotonic_ns()
    print("one request, an answer every 100 ms:")
    with client.stream("repeat", inputs) as answers:
        for answer in answers:
            elapsed = (time.monotonic_ns() - began) / 1e6
            print(f"   {elapsed:4.0f} ms  OUT = {answer['OUT'].item()}", flush=True)
