"""What `penstock bench` sends, from the arguments: serialised requests, and the carrier of them."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence

from penstock.bench.carrier import Carrier
from penstock.bench.meter import Meter
from penstock.bench.requests import fresh_blocks, in_turn, with_fresh_ids
from penstock.bench.sockets import endpoints_of
from penstock.cli.command import CommandError
from penstock.cli.connection import connected, explaining_url, metadata_of, tls_of
from penstock.cli.infer import make_inputs
from penstock.client import calls
from penstock.client.channel import addresses_of, grpc_target
from penstock_protos import inference as pb
from penstock_runtime.errors import PenstockError

Opener = Callable[[Meter], Carrier]
"""Opens the connections of one load."""


def bodies_of(args: argparse.Namespace) -> list[bytes]:
    """The serialised ModelInferRequests that the arguments describe, at least one."""
    if args.body:
        return [path.read_bytes() for path in args.body]
    sets = _read_lines(args) if args.inputs_file else split_sets(args.input)
    with connected(args) as client:
        metadata = client.model_metadata(args.model, args.version)
    return [_body(args, metadata, each, number) for number, each in enumerate(sets)]


def _body(
    args: argparse.Namespace,
    metadata: pb.ModelMetadataResponse,
    given: Mapping[str, str],
    number: int,
) -> bytes:
    inputs = make_inputs(metadata, given, made_up=True, seed=(args.random or 0) + number)
    return calls.infer(args.model, inputs, version=args.version).request


def split_sets(pairs: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """The inputs of each request: a name that comes again begins the next one."""
    sets: list[dict[str, str]] = [{}]
    for name, value in pairs:
        if name in sets[-1]:
            sets.append({})
        sets[-1][name] = value
    return sets


def _read_lines(args: argparse.Namespace) -> list[dict[str, str]]:
    found = []
    try:
        text = args.inputs_file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CommandError(f"{args.inputs_file} is no text in UTF-8: {error}") from None
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            found.append(_read_line(f"{args.inputs_file}:{number}", line))
    if not found:
        raise CommandError(f"{args.inputs_file} is empty, expected a JSON object a line")
    return found


def _read_line(where: str, line: str) -> dict[str, str]:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise CommandError(f"{where}: {error}") from None
    if not isinstance(value, dict):
        raise CommandError(f'{where}: expected an object like {{"NAME": VALUE}}')
    return {name: _text(each) for name, each in value.items()}


def _text(value: object) -> str:
    """The value as the command line would have it: texts as they are, the rest as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def opener(args: argparse.Namespace, bodies: Sequence[bytes]) -> Opener:
    """What opens the connections of one load, anew for each row."""
    metadata_of(args)
    try:
        for body in bodies if args.fresh_id else ():
            next(with_fresh_ids([body]))
    except PenstockError as error:
        raise CommandError(f"--fresh-id: the body is no ModelInferRequest: {error}") from None
    return _grpcio(args, bodies) if args.client == "grpcio" else _http2(args, bodies)


def _metadata(args: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    return metadata_of(args) + (calls.TRUE_STATUS if args.stream else ())


def _grpcio(args: argparse.Namespace, bodies: Sequence[bytes]) -> Opener:
    from penstock.bench.grpcio_carrier import GrpcioCarrier, GrpcioWork

    with explaining_url(args.url):
        grpc_target(addresses_of(args.url))

    def open_carrier(meter: Meter) -> Carrier:
        order = with_fresh_ids if args.fresh_id else in_turn
        work = GrpcioWork(
            order(bodies, args.random),
            args.timeout,
            _metadata(args),
            args.fresh_metadata,
            args.stream,
        )
        return GrpcioCarrier(args.url, tls_of(args), args.connections, work, meter)

    return open_carrier


def _http2(args: argparse.Namespace, bodies: Sequence[bytes]) -> Opener:
    from itertools import repeat

    from penstock.bench.http2_carrier import Http2Carrier, dialler
    from penstock.bench.http2_link import Work
    from penstock.transport.http2.client_requests import request_block, timeout_field

    tls = tls_of(args)
    with explaining_url(args.url):
        endpoints = endpoints_of(args.url)
        method = "ModelStreamInfer" if args.stream else "ModelInfer"
        block = request_block(
            calls.INFERENCE + method,
            endpoints[0].authority,
            scheme="http" if tls is None else "https",
            metadata=_metadata(args),
        )

    def open_carrier(meter: Meter) -> Carrier:
        timeout = args.timeout
        fixed = block + timeout_field(int(timeout * 1e9))
        blocks = fresh_blocks(block, timeout) if args.fresh_metadata else repeat(fixed)
        order = with_fresh_ids if args.fresh_id else in_turn
        work = Work(blocks, order(bodies, args.random), timeout, args.stream)
        dial = dialler(endpoints, tls, work, meter, timeout)
        return Http2Carrier(dial, args.connections, meter)

    return open_carrier
