"""Work that is done to its end once it began, though whoever asked for it has gone, and once at a time for each key.

A call that was cut is repeated. Were its work thrown away, a busy service would begin the same work again and again and
finish none of it; so the repetition waits for what runs, and finds it done.
"""

from __future__ import annotations

import asyncio
from collections import Counter
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
        """Let at most so many run at once, and half as many of one party, so that nobody keeps all others out."""
        self._most = most
        self._running: dict[Hashable, asyncio.Task[Any]] = {}
        self._of_party: Counter[Hashable] = Counter()

    async def run(self, party: Hashable, key: Hashable, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Return what the work returns, and raise what it raises. What runs under the same key ends before it begins.

        Args:
            party: who asks, such as an owner.
            key: names the work, among that of all parties.
            work: makes the work.

        Raises:
            Unavailable: as many as may run at once do.
        """
        while (before := self._running.get(key)) is not None:
            await asyncio.wait([before])
        if len(self._running) >= self._most or self._of_party[party] * 2 >= self._most:
            message = f"At most {self._most} calls of this kind are worked on at once, and half as many of one caller; "
            raise Unavailable(message + "repeat in a second.", retry_after=_RETRY_AFTER)
        task = asyncio.create_task(work())
        self._running[key] = task
        self._of_party[party] += 1
        task.add_done_callback(lambda _: self._ended(party, key))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_tell)
            raise

    def _ended(self, party: Hashable, key: Hashable) -> None:
        del self._running[key]
        self._of_party[party] -= 1
        if not self._of_party[party]:
            del self._of_party[party]

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
