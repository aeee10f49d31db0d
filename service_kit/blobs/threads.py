"""A few threads for a client that blocks: so many requests at a time, each with a limit, none on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any, TypeVar

from service_kit.errors import Unavailable

T = TypeVar("T")


class Threads:
    """Runs blocking calls. Those that are too many wait for their turn, within the limit."""

    def __init__(self, count: int, name: str, limit: timedelta) -> None:
        """Take at most `count` threads; a call may take `limit`, its turn included."""
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)
        self._limit_s = limit.total_seconds()

    async def run(self, call: Callable[[], T], *, writes: bool = False) -> T:
        """Return what a call returns. Whoever is cancelled waits for one that writes: none goes on behind one's back.

        Raises:
            Unavailable: there is no answer yet.
        """
        begun = self._pool.submit(call)
        future = asyncio.wrap_future(begun)
        future.add_done_callback(_look_at)
        try:
            async with asyncio.timeout(self._limit_s):
                return await asyncio.shield(future)
        except asyncio.CancelledError:
            if not begun.cancel() and writes:
                await asyncio.wait([future], timeout=self._limit_s)
            raise
        except TimeoutError:
            begun.cancel()
            raise Unavailable(f"The object store has not answered for {self._limit_s:.0f} s; repeat.") from None

    async def close(self) -> None:
        """Wait for the calls that are on their way."""
        await asyncio.to_thread(self._pool.shutdown, cancel_futures=True)


def _look_at(future: Future[Any] | asyncio.Future[Any]) -> None:
    """Take an error that nobody may wait for any more: asyncio would report it as never seen."""
    if not future.cancelled():
        future.exception()
