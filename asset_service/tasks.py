"""Work that must come to its end although the call that began it has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


class Unbroken:
    """Owns such work, and waits for it at the end."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Return what the work returns. A caller that is cancelled goes at once; the work goes on."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._over)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Wait for all that is going on."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _over(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            # Whoever waits hears of a failure; when nobody does, it must not be reported as forgotten.
            task.exception()
