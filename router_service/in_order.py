"""Does what messages ask for: at once for different jobs, one after another for the same job, never too much."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection

Work = Callable[[], Awaitable[None]]


class InOrder:
    """Runs work that belongs to a key, in the order of each key.

    Whoever adds work waits while `most` pieces, or `most_bytes` of them, are under way. A fault ends everything:
    nothing more is begun, and `add` and `fault` tell it.
    """

    def __init__(self, *, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._bytes = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._last: dict[str, asyncio.Task[None]] = {}
        self._moved = asyncio.Event()
        self._fault: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def add(self, key: str | None, size_bytes: int, work: Work) -> None:
        """Begin a piece of work as soon as there is room for it. One that is larger than all room goes alone.

        Without a key it is done after everything that was added before it.

        Raises:
            whatever an earlier piece has raised.
        """
        while self._tasks and (len(self._tasks) >= self._most or self._bytes + size_bytes > self._most_bytes):
            await self._wait()
        if self._fault.done():
            self._fault.result()
        task = asyncio.create_task(self._run(self._before(key), work))
        self._tasks.add(task)
        self._bytes += size_bytes
        if key is not None:
            self._last[key] = task
        task.add_done_callback(lambda done: self._ended(done, key, size_bytes))

    def is_busy(self, key: str) -> bool:
        """Tell whether work of a key is under way."""
        return key in self._last

    async def drained(self) -> None:
        """Wait until nothing is under way. Raises whatever a piece has raised."""
        while self._tasks and not self._fault.done():
            await self._wait()
        if self._fault.done():
            self._fault.result()

    async def fault(self) -> None:
        """Wait until a piece of work fails, and raise what it raised."""
        await asyncio.shield(self._fault)

    async def close(self) -> None:
        """Cancel what is under way."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._fault.done():
            self._fault.exception()
        else:
            self._fault.cancel()

    def _before(self, key: str | None) -> Collection[asyncio.Task[None]]:
        if key is None:
            return tuple(self._tasks)
        return (self._last[key],) if key in self._last else ()

    async def _run(self, before: Collection[asyncio.Task[None]], work: Work) -> None:
        if before:
            await asyncio.wait(before)
        if not self._fault.done():
            await work()

    async def _wait(self) -> None:
        self._moved.clear()
        await self._moved.wait()

    def _ended(self, task: asyncio.Task[None], key: str | None, size_bytes: int) -> None:
        self._tasks.discard(task)
        self._bytes -= size_bytes
        if key is not None and self._last.get(key) is task:
            del self._last[key]
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._fault.done():
            self._fault.set_exception(error)
        self._moved.set()
