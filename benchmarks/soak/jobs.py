"""What well-behaved clients do, again and again; each job is one round of it."""

import asyncio
import time
from dataclasses import replace
from itertools import count

from benchmarks.reload import MODEL, write_model
from benchmarks.soak.caller import STREAM, Caller, Question, matrix, question, small

from penstock.client import calls
from penstock.client.base import AsyncChannel
from penstock.client.errors import InferenceError
from penstock.client.streams import AsyncResultStream
from penstock_protos import health as health_pb
from penstock_protos import inference as pb

WATCH = "/grpc.health.v1.Health/Watch"
ANSWERS = 100
MIB = 1 << 20
_numbers = count(1)


async def probe(caller: Caller) -> None:
    """The neighbour that must not be disturbed."""
    asked = small(caller.chance)
    began = time.perf_counter_ns()
    await caller.ask("probe", caller.channel("probe"), asked)
    caller.tally.probes.append(time.perf_counter_ns() - began)


async def repeat(caller: Caller) -> None:
    """The same bytes many times, some at once."""
    asked = small(caller.chance, caller.chance.choice(("echo", "twice")))
    channel = caller.channel("repeat")
    for _ in range(5):
        await asyncio.gather(*(caller.ask("repeated", channel, asked) for _ in range(8)))


async def fresh(caller: Caller) -> None:
    """Every call with its own id, trace and deadline."""
    channel = caller.channel("fresh")
    for _ in range(10):
        number = next(_numbers)
        asked = small(caller.chance, caller.chance.choice(("echo", "twice")), f"call-{number}")
        trace = f"00-{caller.chance.getrandbits(128):032x}-{number:016x}-01"
        metadata = (("traceparent", trace), ("x-raw-bin", number.to_bytes(8)))
        timeout_s = 10 + caller.chance.random() * 20
        await caller.ask("fresh", channel, asked, timeout_s=timeout_s, metadata=metadata)


async def large(caller: Caller) -> None:
    """A message of 1 to 8 MiB there and back."""
    rows = caller.chance.choice((1, 1, 2, 3, 8)) * MIB // 4096
    asked = question("echo", matrix(caller.chance, (rows, 1024)))
    await caller.ask("large", caller.channel("large"), asked)


async def gzip(caller: Caller) -> None:
    """Compressed requests."""
    values = matrix(caller.chance, (1, 64)).repeat(caller.chance.choice((1, 16, 256)), axis=0)
    asked = question("echo", values)
    await caller.ask("gzip", caller.channel("gzip", "gzip"), asked)


async def typed(caller: Caller) -> None:
    """Numbers in the message rather than raw."""
    values = matrix(caller.chance, (3, 40))
    asked = question("echo", values)
    request = pb.ModelInferRequest(model_name="echo")
    tensor = request.inputs.add(name="INPUT0", datatype="FP32", shape=values.shape)
    tensor.contents.fp32_contents.extend(values.reshape(-1).tolist())
    told = replace(asked.call, request=request.SerializeToString())
    await caller.ask("typed", caller.channel(), replace(asked, call=told))


async def stream(caller: Caller) -> None:
    """A stream of a hundred, to its end."""
    asked = question("stream100", matrix(caller.chance, (1, 16)), f"stream-{next(_numbers)}")
    problem = await read_stream(caller.channel("streams"), asked)
    caller.tally.judge(caller.kind("stream of 100"), problem)


async def read_stream(
    channel: AsyncChannel, asked: Question, upto: int = ANSWERS + 1, timeout_s: float = 30.0
) -> str:
    """Read so many answers, then leave; what is wrong with them."""
    request = asked.call.request
    answers = channel.stream(STREAM, request, timeout_s, calls.TRUE_STATUS)
    got = 0
    try:
        async with AsyncResultStream(answers) as results:
            async for result in results:
                got += 1
                if problem := asked.problem(result):
                    return problem
                if got == upto:
                    return ""
    except InferenceError as error:
        return f"{error} after {got} answers"
    return "" if got == ANSWERS else f"{got} answers, expected {ANSWERS}"


async def reconnect(caller: Caller) -> None:
    """A connection for three calls."""
    channel = caller.fresh_channel()
    try:
        for _ in range(3):
            await caller.ask("reconnect", channel, small(caller.chance))
    finally:
        await channel.close()


async def burst(caller: Caller) -> None:
    """More calls at once than a connection may have open."""
    channel = caller.channel("burst")
    asked = small(caller.chance)
    await asyncio.gather(*(caller.ask("burst", channel, asked) for _ in range(250)))


async def watch(caller: Caller) -> None:
    """Health of a service, watched for a while."""
    request = health_pb.HealthCheckRequest(service="").SerializeToString()
    answers = caller.channel("watch").stream(WATCH, request, None, ())
    try:
        first = health_pb.HealthCheckResponse.FromString(bytes(await anext(answers)))
        problem = "" if first.status == first.SERVING else f"status {first.status}"
        await asyncio.sleep(caller.chance.uniform(0.5, 6))
    except InferenceError as error:
        problem = str(error)
    finally:
        answers.cancel()
    caller.tally.judge(caller.kind("watch"), problem)


async def reload(caller: Caller) -> None:
    """New code for a model, while it is called; its answers are of no load that is over."""
    assert caller.repository is not None
    load = next(_numbers)
    write_model(caller.repository, load)
    channel, told = caller.channel("reload"), calls.load(MODEL, None, None)
    loading = asyncio.create_task(channel.unary(told.method, told.request, 30.0, ()))
    while not loading.done():
        await _called_meanwhile(caller)
    try:
        await loading
        problem = ""
    except InferenceError as error:
        problem = str(error)
    caller.tally.judge(caller.kind("reload"), problem)
    await _called_meanwhile(caller, load)


async def _called_meanwhile(caller: Caller, load: int | None = None) -> None:
    """A call of the model that is being loaded; `load` is the one that answers, if it is known."""
    asked = small(caller.chance, "twice")
    call = calls.infer(MODEL, {"INPUT0": asked.answer // 2})
    try:
        result = call.read(await caller.channel().unary(call.method, call.request, 30.0, ()))
        wanted = replace(asked, model=MODEL)
        problem = wanted.problem(result)
        if load is not None and int(result["OUTPUT1"][0, 0]) != load:
            problem = f"answered by load {result['OUTPUT1'][0, 0]}, expected {load}"
    except InferenceError as error:
        problem = str(error)
    caller.tally.judge(caller.kind("call during reload"), problem)
