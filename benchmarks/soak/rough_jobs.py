"""What clients do that leave early, come late or ask for nonsense."""

import asyncio
import contextlib
from dataclasses import replace

import numpy as np
from benchmarks.soak.caller import Caller, matrix, question, small
from benchmarks.soak.jobs import ANSWERS, read_stream

from penstock.client import calls
from penstock.client.base import AsyncChannel
from penstock.client.calls import Call
from penstock.client.errors import InferenceError
from penstock.client.result import InferResult
from penstock_protos import inference as pb
from penstock_runtime.errors import Status

TOO_SHORT_S = 0.03
"""Half of what the slow model takes at worst, and more than it takes as a rule."""
NO_USE = "the deadline cannot be met"


async def leave_stream(caller: Caller) -> None:
    """Streams that are cancelled in the middle, beside one that is not."""
    channel = caller.channel("streams")
    asked = question("stream100", matrix(caller.chance, (4, 64)))
    places = [caller.chance.randint(1, ANSWERS - 1) for _ in range(3)]
    *early, whole = await asyncio.gather(
        *(read_stream(channel, asked, place) for place in places), read_stream(channel, asked)
    )
    for problem in early:
        if problem:
            caller.tally.judge(caller.kind("stream left"), problem)
        else:
            caller.tally.ended[caller.kind("stream left")] += 1
    caller.tally.judge(caller.kind("stream beside"), whole)


async def stream_in_time(caller: Caller) -> None:
    """A stream whose deadline may pass before its end."""
    asked = question("stream100", matrix(caller.chance, (1, 16)))
    timeout_s = caller.chance.uniform(0.001, 0.03)
    problem = await read_stream(caller.channel("streams"), asked, timeout_s=timeout_s)
    # On a busy machine the server may see at once that it will be late, and says so.
    if problem.startswith(Status.DEADLINE_EXCEEDED.value) or NO_USE in problem:
        problem = ""
    caller.tally.judge(caller.kind("stream with deadline"), problem)


async def cancel_unary(caller: Caller) -> None:
    """Calls cancelled in the queue and in execution; those beside them are answered."""
    kind = "cancelled"
    asked = small(caller.chance, "slow")
    channel = caller.channel("cancel")
    tasks = [asyncio.create_task(caller.ask("beside", channel, asked)) for _ in range(5)]
    leaving = caller.chance.sample(tasks, 3)
    await asyncio.sleep(caller.chance.uniform(0, 0.06))
    for task in leaving:
        # One that is answered by now is judged as the others are.
        if task.cancel():
            caller.tally.ended[caller.kind(kind)] += 1
        await asyncio.sleep(caller.chance.uniform(0, 0.01))
    await asyncio.wait(tasks)
    for task in tasks:
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def too_late(caller: Caller) -> None:
    """Deadlines that expire in the queue and in execution."""
    channel = caller.channel("late")
    asked = question("slow", -1 - matrix(caller.chance, (1, 4))).call
    late = (_too_late(caller, channel, asked, TOO_SHORT_S / (i + 1)) for i in range(3))
    await asyncio.gather(*late, caller.ask("in time", channel, small(caller.chance, "slow")))


async def _too_late(
    caller: Caller, channel: AsyncChannel, asked: Call[InferResult], timeout_s: float
) -> None:
    kind, problem = "late", ""
    try:
        await channel.unary(asked.method, asked.request, timeout_s, ())
        # Whoever stood still for so long itself may find the answer before it finds the time.
        kind = "late, yet answered"
    except InferenceError as error:
        if error.status is Status.UNAVAILABLE and NO_USE in error.message:
            kind = "late, refused at once"
        elif error.status is not Status.DEADLINE_EXCEEDED:
            problem = str(error)
    caller.tally.judge(caller.kind(kind), problem)


async def invalid(caller: Caller) -> None:
    """Requests that cannot be answered."""
    channel, kind = caller.channel(), "invalid"
    good = small(caller.chance).call
    model = calls.infer(f"none-{caller.chance.randrange(1000)}", {"INPUT0": [1.0]})
    await caller.refused(kind, channel, model, Status.NOT_FOUND)
    method = replace(good, method=calls.INFERENCE + "NoSuchMethod")
    await caller.refused(kind, channel, method, Status.UNIMPLEMENTED)
    garbage = replace(good, request=caller.chance.randbytes(200) + b"\xff")
    await caller.refused(kind, channel, garbage, Status.INVALID_ARGUMENT)
    for wrong in (
        {"INPUT0": np.ones((2, 2), np.int64)},
        {"INPUT0": np.ones(3, np.float32)},
        {"OTHER": np.ones((1, 1), np.float32)},
    ):
        call = calls.infer("echo", wrong)
        await caller.refused(kind, channel, call, Status.INVALID_ARGUMENT)
    request = pb.ModelInferRequest.FromString(good.request)
    request.raw_input_contents[0] += b"\0"
    longer = replace(good, request=request.SerializeToString())
    await caller.refused(kind, channel, longer, Status.INVALID_ARGUMENT)
    version = calls.infer("echo", {"INPUT0": matrix(caller.chance, (1, 1))}, version="77")
    await caller.refused(kind, channel, version, Status.NOT_FOUND)
    heavy = (("x-heavy", "y" * 20_000),)
    if caller.carrier == "http2":
        await caller.refused(kind, channel, good, Status.RESOURCE_EXHAUSTED, metadata=heavy)


async def reconnect_roughly(caller: Caller) -> None:
    """A channel that is closed with calls and a stream open."""
    channel = caller.fresh_channel()
    asked = small(caller.chance, "slow").call
    tasks = [
        asyncio.create_task(channel.unary(asked.method, asked.request, 30.0, ())) for _ in range(3)
    ]
    many = question("stream100", matrix(caller.chance, (16, 64)))
    streaming = asyncio.create_task(read_stream(channel, many))
    await asyncio.sleep(caller.chance.uniform(0.002, 0.05))
    await channel.close()
    for task in tasks:
        task.cancel()
    streaming.cancel()
    await asyncio.gather(*tasks, streaming, return_exceptions=True)
    caller.tally.ended[caller.kind("channel closed")] += len(tasks) + 1
