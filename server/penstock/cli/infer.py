"""`penstock infer`: one request, its answer or the answers of its stream."""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np

from penstock.cli.command import CommandError, name_and_value
from penstock.cli.connection import add_connection, connected
from penstock.cli.tensors import as_json, random_tensor, read_tensor, show
from penstock.cli.terminal import Paint, plain
from penstock.client.result import InferResult
from penstock.client.sync import Client
from penstock_protos import inference as pb
from penstock_runtime.datatype import from_wire
from penstock_runtime.request import Parameter
from penstock_runtime.tensor import Tensor

DESCRIPTION = """Send one request to a model and print what it answers. The model says itself what
its inputs are called and of which kind they are, so that values can be given as JSON, as text, or
as files; a batch dimension that is missing is added."""
EXAMPLES = (
    "penstock infer add_sub --input INPUT0=[1,2,3] --input INPUT1=@three.npy",
    "penstock infer minilm --input TEXT='a sentence to embed' --json",
    "penstock infer repeat --random --stream",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument("model", metavar="MODEL", help="name of the model")
    parser.add_argument("--version", default="", help="version to ask (default: the latest)")
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        type=name_and_value,
        metavar="NAME=VALUE",
        help="an input: JSON, text for BYTES, @file.npy, @file.json, or @file for its bytes",
    )
    parser.add_argument("--random", action="store_true", help="make up the inputs not given")
    parser.add_argument("--seed", type=int, default=0, help="seed of --random (default 0)")
    parser.add_argument(
        "--output", action="append", default=[], metavar="NAME", help="ask for this output only"
    )
    parser.add_argument(
        "--parameter",
        action="append",
        default=[],
        type=name_and_value,
        metavar="KEY=VALUE",
        help="a request parameter; true, false and numbers are sent as such"
        " (penstock_timing=true asks where the time went)",
    )
    parser.add_argument("--id", default="", help="id of the request")
    parser.add_argument("--priority", type=int, default=0, help="priority, 1 is highest")
    parser.add_argument("--stream", action="store_true", help="print answers as they arrive")
    parser.add_argument("--json", action="store_true", help="print JSON, an answer a line")
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Send the request and print its answers."""
    with connected(args) as client:
        metadata = client.model_metadata(args.model, args.version)
        inputs = make_inputs(metadata, dict(args.input), args.random, args.seed)
        began = time.monotonic_ns()
        count = 0
        with _answers(client, args, inputs) as answers:
            for count, result in enumerate(answers, 1):  # noqa: B007 - counts what was printed
                elapsed_ms = (time.monotonic_ns() - began) / 1e6
                _print(result, elapsed_ms, args.json)
    if not count and not args.json:
        print("the model answered with nothing")
    return 0


@contextmanager
def _answers(
    client: Client, args: argparse.Namespace, inputs: Mapping[str, Tensor]
) -> Iterator[Iterator[InferResult]]:
    options = {
        "version": args.version,
        "outputs": args.output,
        "parameters": {key: parse_parameter(text) for key, text in args.parameter},
        "id": args.id,
        "priority": args.priority,
    }
    if args.stream:
        with client.stream(args.model, inputs, **options) as stream:
            yield stream
    else:
        yield iter([client.infer(args.model, inputs, **options)])


def make_inputs(
    metadata: pb.ModelMetadataResponse, given: Mapping[str, str], made_up: bool, seed: int = 0
) -> dict[str, Tensor]:
    """The inputs of a request out of the texts that were given, the rest made up if asked."""
    names = [each.name for each in metadata.inputs]
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise CommandError(
            f"model {metadata.name} has no input {unknown[0]!r}, its inputs are {_list(metadata)}"
        )
    if not given and not made_up:
        raise CommandError(
            f"no input was given, expected --input for {_list(metadata)} (or --random)"
        )
    generator = np.random.default_rng(seed)
    inputs = {}
    for each in metadata.inputs:
        datatype = from_wire(each.datatype)
        if each.name in given:
            inputs[each.name] = read_tensor(each.name, given[each.name], datatype, each.shape)
        elif made_up:
            inputs[each.name] = random_tensor(each.name, datatype, each.shape, generator)
    return inputs


def _list(metadata: pb.ModelMetadataResponse) -> str:
    return ", ".join(
        f"{each.name} {each.datatype}[{','.join(map(str, each.shape))}]" for each in metadata.inputs
    )


def parse_parameter(text: str) -> Parameter:
    """true, false and numbers as such, anything else as text."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return text
    return value if isinstance(value, bool | int | float | str) else text


def _print(result: InferResult, elapsed_ms: float, as_lines: bool) -> None:
    if as_lines:
        print(json.dumps(to_json(result)), flush=True)
        return
    paint = Paint(sys.stdout)
    name = plain(f"{result.model_name}/{result.model_version}")
    identity = f" id={plain(result.id)}" if result.id else ""
    print(paint(f"{name}{identity}  {elapsed_ms:.1f} ms", "dim"))
    for output in result:
        print(show(result.tensor(output), result[output]))
    for key, value in result.parameters.items():
        print(paint(plain(f"{key} = {value}"), "dim"))
    sys.stdout.flush()


def to_json(result: InferResult) -> dict[str, object]:
    """The answer in the REST form of the protocol."""
    return {
        "model_name": result.model_name,
        "model_version": result.model_version,
        "id": result.id,
        "parameters": dict(result.parameters),
        "outputs": [as_json(result.tensor(name), result[name]) for name in result],
    }
