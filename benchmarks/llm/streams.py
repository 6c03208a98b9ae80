"""Answers as they come, from our server by gRPC and from an OpenAI endpoint by HTTP: one item for
each piece of text. Both clients do as little as they can, on one event loop.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable

from benchmarks.llm.served import deltas

from penstock import AsyncClient

Ask = Callable[[list[int], int], AsyncIterator[object]]
_LIMIT = 1 << 20


def over_grpc(client: AsyncClient) -> Ask:
    """Streams of ModelStreamInfer, over one connection."""
    return lambda prompt, count: deltas(client, prompt, count)


def over_http(port: int) -> Ask:
    """Server-sent events of /v1/completions, each request over a connection of its own."""
    return lambda prompt, count: _completion(port, prompt, count)


async def _completion(port: int, prompt: list[int], count: int) -> AsyncIterator[object]:
    """ValueError unless the answer is as long as it was to be."""
    asked = {
        "model": "bench",
        "prompt": prompt,
        "max_tokens": count,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=_LIMIT)
    try:
        writer.write(_request(json.dumps(asked).encode()))
        last = b""
        async for line in reader:
            if line.startswith(b"data: {"):
                last = line
                yield line
            elif line.startswith(b"data: [DONE]"):
                break
    finally:
        writer.close()
    if b'"finish_reason":"length"' not in last:
        raise ValueError(f"an answer ended by {last[:200]!r}, expected its length")


def _request(body: bytes) -> bytes:
    lines = (
        "POST /v1/completions HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        "Connection: close",
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
