"""Clients that read streamed chat completions, the same for every relay; driven by the benchmark (`Child`)."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from typing import Any

from benchmarks.child import cpu_seconds, serve
from benchmarks.load.upstream import TOKENS

_CONTENT = re.compile(rb'"content": ?"((?:[^"\\]|\\.)*)"')
_FIRST = re.compile(rb'"content": ?"[^"]')
_PATIENCE_S = 60.0


async def run(port: int, path: str, key: str, streams: int, total: int) -> dict[str, Any]:
    """Read `total` completions with `streams` connections, each its next one as soon as it may.

    Returns:
        The seconds from the first request to the last token, and of each completion the milliseconds to its first.
    """
    body = json.dumps({"model": "chat", "stream": True, "messages": [{"role": "user", "content": "hello"}]}).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    request = head.encode() + body
    numbers, first_ms = iter(range(total)), []
    cpu, started = cpu_seconds(), time.perf_counter()

    async def one() -> None:
        async for waited_ms in _read(port, request, numbers):
            first_ms.append(waited_ms)

    async with asyncio.timeout(_PATIENCE_S), asyncio.TaskGroup() as group:
        for _ in range(streams):
            group.create_task(one())
    return {"seconds": time.perf_counter() - started, "first_ms": first_ms, "cpu_s": cpu_seconds() - cpu}


async def _read(port: int, request: bytes, numbers: Iterator[int]) -> Any:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for _ in numbers:
            started = time.perf_counter()
            writer.write(request)
            received, first = b"", 0.0
            # The end of a chunked body.
            while not received.endswith(b"\r\n0\r\n\r\n"):
                data = await reader.read(1 << 16)
                if not data:
                    raise RuntimeError(f"the stream broke off: {received[-300:]!r}")
                received += data
                if not first and _FIRST.search(received):
                    first = time.perf_counter()
            words = b"".join(_CONTENT.findall(received)).split()
            if len(words) != TOKENS or b"[DONE]" not in received:
                raise RuntimeError(f"{len(words)} tokens came instead of {TOKENS}: {received[:300]!r}")
            yield (first - started) * 1000
    finally:
        writer.close()


if __name__ == "__main__":
    asyncio.run(serve({"run": run}))
