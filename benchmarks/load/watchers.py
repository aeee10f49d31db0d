"""Many watchers in one process: each a connection that asks for an event stream and reads what comes."""

from __future__ import annotations

import asyncio
from typing import Any

from benchmarks.child import cpu_seconds, serve

# So many connect at once: more would only wait for each other in the listening queue.
_AT_ONCE = 50
_WITHIN_S = 60.0


class Watchers:
    """Open streams, and how many of them have heard of an event."""

    def __init__(self) -> None:
        self._writers: list[asyncio.StreamWriter] = []
        self._reading: list[asyncio.Task[None]] = []
        self._heard = 0

    async def open(self, port: int, path: str, key: str, begun: str, count: int) -> dict[str, Any]:
        """Open `count` more streams; returns when each has read `begun`: what comes after that is news."""
        room = asyncio.Semaphore(_AT_ONCE)
        async with asyncio.timeout(_WITHIN_S):
            await asyncio.gather(*(self._one(room, port, path, key, begun.encode()) for _ in range(count)))
        return {"open": len(self._writers)}

    async def heard(self, count: int) -> dict[str, Any]:
        """Return when `count` streams have had an event."""
        async with asyncio.timeout(_WITHIN_S):
            while self._heard < count:  # noqa: ASYNC110 - there are thousands to wait for
                await asyncio.sleep(0.01)
        return {"heard": self._heard, "cpu_s": cpu_seconds()}

    async def close(self) -> dict[str, Any]:
        """Leave."""
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*self._reading, return_exceptions=True)
        self._writers, self._reading, self._heard = [], [], 0
        return {}

    async def _one(self, room: asyncio.Semaphore, port: int, path: str, key: str, begun: bytes) -> None:
        async with room:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=16_384)
            self._writers.append(writer)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {key}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200 "):
                raise RuntimeError(f"a watcher was answered {head[:60]!r}")
            await reader.readuntil(begun)
            self._reading.append(asyncio.create_task(self._read(reader)))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            if line.startswith((b"event: state", b"event: jobs.state")):
                self._heard += 1


async def main() -> None:
    """Do what the parent says."""
    watchers = Watchers()
    await serve({"open": watchers.open, "heard": watchers.heard, "close": watchers.close})


if __name__ == "__main__":
    asyncio.run(main())
