"""What peers do that speak HTTP/2 by the letter, badly, or stop in the middle; blocking."""

import contextlib
import socket
import struct
import time
from collections.abc import Callable

from benchmarks.soak.caller import Caller, Question, matrix, question, small
from benchmarks.soak.jobs import ANSWERS, WATCH
from tests.http2.frames import (
    END_HEADERS,
    END_STREAM,
    PREFACE,
    Code,
    Type,
    block,
    data,
    frame,
    headers,
    message,
    rst_stream,
    settings,
    window_update,
)
from tests.http2.raw import Answer, RawClient, request_fields

from penstock.client import calls
from penstock.client.result import InferResult
from penstock.codec.response_decoder import decode_response, decode_stream_response
from penstock_runtime.request import InferResponse

INFER = calls.INFERENCE + "ModelInfer"
STREAM = calls.INFERENCE + "ModelStreamInfer"
MAX_STREAMS = 100
"""What the server is told to allow on a connection."""
WIDE = 1 << 24
GOODBYE_S = 15.0
"""Within which the server has to let go of a peer that does nothing."""


def path_of(asked: Question) -> str:
    """The method by which a model is called."""
    return STREAM if asked.model == "stream100" else INFER


def request(client: RawClient, stream: int, asked: Question) -> None:
    """Send a whole call."""
    client.request(stream, asked.call.request, path_of(asked))


def problem_of(asked: Question, answer: Answer) -> str:
    """What is wrong with an answer that had to be OK; every part of it must be there once."""
    if answer.reset is not None:
        return f"reset with {answer.reset}"
    if not answer.ended or answer.status != 0:
        return f"status {answer.status} {answer.text}, ended: {answer.ended}"
    expected = ANSWERS if asked.model == "stream100" else 1
    heads = sum(one.type == Type.HEADERS for one in answer.frames)
    ends = sum(one.is_(Type.HEADERS, END_STREAM) for one in answer.frames)
    if (len(answer.messages), heads, ends) != (expected, 2, 1):
        return f"{len(answer.messages)} messages in {heads} header blocks, {ends} ends"
    return next(filter(None, (_message_problem(asked, one) for one in answer.messages)), "")


def _message_problem(asked: Question, body: bytes) -> str:
    found = decode_stream_response(body) if asked.model == "stream100" else decode_response(body)
    if not isinstance(found, InferResponse):
        return f"an error in the stream: {found}"
    return asked.problem(InferResult(found))


def interleaved(caller: Caller) -> None:
    """Many calls on one connection, each answered exactly once, also after the last was."""
    with RawClient(caller.url) as client:
        client.start()
        client.send(window_update(0, WIDE))
        models = ("echo", "twice", "slow", "stream100")
        asked = {
            2 * i + 1: small(caller.chance, caller.chance.choices(models, (8, 8, 1, 1))[0], f"r{i}")
            for i in range(40)
        }
        for stream, one in asked.items():
            request(client, stream, one)
        for stream in asked:
            client.answer(stream)
        client.fence()
        for stream, one in asked.items():
            problem = problem_of(one, client.so_far(stream))
            caller.tally.judge("interleaved (raw)", problem)
            caller.tally.executed += one.model == "twice" and not problem


def resets(caller: Caller) -> None:
    """RST_STREAM at random moments for half of the calls; the other half is answered."""
    with RawClient(caller.url) as client:
        client.start()
        client.send(window_update(0, WIDE))
        models = ("echo", "slow", "stream100", "stream100")
        asked = {2 * i + 1: small(caller.chance, models[i % 4], f"x{i}") for i in range(16)}
        doomed = set(caller.chance.sample(sorted(asked), 8))
        for stream, one in asked.items():
            request(client, stream, one)
            if stream in doomed and caller.chance.random() < 0.5:
                time.sleep(caller.chance.choice((0, 0, 0.002, 0.01)))
                client.send(rst_stream(stream, Code.CANCEL))
        kept = sorted(asked.keys() - doomed)
        for stream in kept[: caller.chance.randrange(len(kept))]:
            client.answer(stream)
        for stream in doomed:
            client.send(rst_stream(stream, Code.CANCEL))
        for stream in kept:
            problem = problem_of(asked[stream], client.answer(stream))
            caller.tally.judge("beside resets (raw)", problem)
        client.fence()
        caller.tally.ended["reset (raw)"] += len(doomed)


def conversation(caller: Caller) -> bytes:
    """All that a client sends for a few calls."""
    asked = [small(caller.chance, model) for model in ("echo", "slow", "stream100")]
    asked.append(question("echo", matrix(caller.chance, (64, 64))))
    caller.chance.shuffle(asked)
    sent = [PREFACE, settings()]
    for i, one in enumerate(asked):
        sent.append(headers(2 * i + 1, block(request_fields(path_of(one)))))
        sent.append(data(2 * i + 1, message(one.call.request), end=True))
    return b"".join(sent)


def cuts(caller: Caller) -> None:
    """Connections that end at any byte: closed, reset, or half closed and read to the end."""
    for _ in range(6):
        said = conversation(caller)
        # Most of the bytes are a message: half the cuts are made before it.
        end = caller.chance.choice((len(said), 700))
        with RawClient(caller.url) as client:
            client.send(said[: caller.chance.randrange(end)])
            if caller.chance.random() < 0.5:
                time.sleep(caller.chance.uniform(0, 0.02))
            leave(caller, client)
        caller.tally.ended["cut (raw)"] += 1


def leave(caller: Caller, client: RawClient) -> None:
    """End a connection in one of three ways."""
    way = caller.chance.randrange(3)
    if way == 0:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif way == 1:
        with contextlib.suppress(OSError):
            client.socket.shutdown(socket.SHUT_WR)
        client.goaway()
        caller.tally.judge("half closed (raw)", "" if client.eof else "the server stays")


def silent(caller: Caller) -> None:
    """Peers that connect and say nothing, or half of the preface: they are let go of."""
    clients = [RawClient(caller.url) for _ in range(4)]
    began = time.monotonic()
    for client in clients:
        client.send(PREFACE[: caller.chance.randrange(len(PREFACE))])
    for client in clients:
        _let_go(caller, "silent (raw)", client, began)


def half_open(caller: Caller) -> None:
    """Peers that had calls and then answer nothing more, pings neither: they are let go of."""
    clients = [RawClient(caller.url) for _ in range(2)]
    began = time.monotonic()
    for client in clients:
        client.start()
        client.request(1, b"", WATCH)
        request(client, 3, question("stream100", matrix(caller.chance, (64, 64))))
    for client in clients:
        _let_go(caller, "half open (raw)", client, began)


def _let_go(caller: Caller, kind: str, client: RawClient, began: float) -> None:
    with client:
        client.goaway()
    took = time.monotonic() - began
    problem = "" if took < GOODBYE_S else f"let go of after {took:.1f} s"
    caller.tally.judge(kind, problem)


def slow_reader(caller: Caller) -> None:
    """Takes nothing for a while, then all of it: nothing is lost."""
    with RawClient(caller.url) as client:
        client.start()
        asked = question("stream100", matrix(caller.chance, (64, 64)))
        request(client, 1, asked)
        time.sleep(caller.chance.uniform(0.2, 2))
        for _ in range(4):
            client.send(window_update(0, 1 << 17), window_update(1, 1 << 17))
            time.sleep(caller.chance.uniform(0, 0.2))
        client.send(window_update(0, WIDE), window_update(1, WIDE))
        caller.tally.judge("slow reader (raw)", problem_of(asked, client.answer(1)))


def crowd(caller: Caller) -> None:
    """More calls at once than are allowed: each is answered or refused, and later ones served."""
    with RawClient(caller.url) as client:
        client.start()
        client.send(window_update(0, WIDE))
        asked = small(caller.chance)
        streams = range(1, 2 * MAX_STREAMS + 121, 2)
        head, body = block(request_fields(INFER)), message(asked.call.request)
        # All in one write: what a loop finds at once is what is open at once.
        client.send(*(headers(s, head) for s in streams))
        client.send(*(data(s, body, end=True) for s in streams))
        for stream in streams:
            answer = client.answer(stream)
            refused = answer.reset == Code.REFUSED_STREAM
            problem = "" if refused else problem_of(asked, answer)
            caller.tally.judge("crowd: " + ("refused" if refused else "answered"), problem)
        request(client, streams.stop, asked)
        problem = problem_of(asked, client.answer(streams.stop))
        caller.tally.judge("after the crowd (raw)", problem)


def nonsense(caller: Caller) -> None:
    """What no HTTP/2 peer may say: the connection ends, and is told why once it spoke HTTP/2."""
    noise = caller.chance.randbytes(caller.chance.randrange(24, 300))
    for said in (noise, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01" + noise):
        with RawClient(caller.url) as client:
            client.send(said)
            client.goaway()
            caller.tally.judge("no HTTP/2 (raw)", "" if client.eof else "the server stays")
    for wrong in (
        frame(Type.DATA, 0, 0, b"abc"),
        frame(Type.HEADERS, END_HEADERS, 2, block(request_fields(INFER))),
        frame(Type.HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff" + noise),
        frame(Type.SETTINGS, 0, 0, b"12345"),
        frame(Type.CONTINUATION, END_HEADERS, 1, b""),
        window_update(0, 0),
        b"\xff\xff\xff" + noise,
    ):
        with RawClient(caller.url) as client:
            client.start()
            client.send(wrong)
            told = client.goaway()
            caller.tally.judge("bad frames (raw)", "" if told else "no GOAWAY")


def odd_requests(caller: Caller) -> None:
    """Requests that are HTTP/2 and not gRPC: refused, and the connection goes on."""
    with RawClient(caller.url) as client:
        client.start()
        asked = small(caller.chance)
        client.request(1, b"", "/no.Service/Method")
        fields = request_fields(INFER, (b":method", b"GET"), without=(b":method",))
        client.send(headers(3, block(sorted(fields)), end=True))
        client.request(5, None, INFER)
        request(client, 7, asked)
        statuses = [client.answer(stream).status for stream in (1, 5)]
        problem = "" if statuses == [12, 12] else f"statuses {statuses}, expected [12, 12]"
        caller.tally.judge("odd requests (raw)", problem)
        caller.tally.judge("beside them (raw)", problem_of(asked, client.answer(7)))


WIRE_JOBS: dict[Callable[[Caller], None], float] = {
    interleaved: 0.8,
    resets: 0.4,
    cuts: 0.8,
    silent: 4.0,
    half_open: 4.0,
    slow_reader: 1.0,
    crowd: 6.0,
    nonsense: 5.0,
    odd_requests: 3.0,
}
"""The seconds between two rounds of each."""
