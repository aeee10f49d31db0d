"""Work that is done to its end once it began, though whoever asked for it has gone, and once at a time for each key.

A call that was cut is repeated. Were its work thrown away, a busy service would begin the same work again and again and
finish none of it; so the repetition waits for what runs, and finds it done.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from datetime import timedelta
from typing import Any, TypeVar

from service_kit.errors import AtelierError, Unavailable
from service_kit.telemetry import get_logger

log = get_logger(__name__)
_T = TypeVar("_T")
_RETRY_AFTER = timedelta(seconds=1)


class Finishing:
    """Owns work of calls. Start nothing more before `close`."""

    def __init__(self, most: int) -> None:
        """Let at most so many run at once."""
        self._most = most
        self._running: dict[Hashable, asyncio.Task[Any]] = {}

    async def run(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Return what the work returns, and raise what it raises. What runs under the same key ends before it begins.

        Raises:
            Unavailable: as many as may run at once do.
        """
        while (before := self._running.get(key)) is not None:
            await asyncio.wait([before])
        if len(self._running) >= self._most:
            message = f"{self._most} calls of this kind are being worked on, and no more at once; repeat in a second."
            raise Unavailable(message, retry_after=_RETRY_AFTER)
        task = asyncio.create_task(work())
        self._running[key] = task
        task.add_done_callback(lambda _: self._running.pop(key))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_tell)
            raise

    async def close(self) -> None:
        """Cancel what runs and wait until it has ended."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _tell(task: asyncio.Task[Any]) -> None:
    """Log what went wrong with work that nobody waits for any more."""
    if task.cancelled() or (error := task.exception()) is None:
        return
    if isinstance(error, AtelierError):
        log.info("unawaited_work_refused", reason=error.reason, error=error.message)
    else:
        log.error("unawaited_work_failed", exc_info=error)
