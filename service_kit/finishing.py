"""Work of calls that comes to its end once it began, though whoever asked for it has gone."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

from service_kit.errors import AtelierError, Unavailable
from service_kit.tasks import end
from service_kit.telemetry import get_logger

log = get_logger(__name__)
_P = ParamSpec("_P")
_T = TypeVar("_T")
_RETRY_AFTER = timedelta(seconds=1)
_END_LIMIT_S = 60.0


async def to_the_end(step: Awaitable[_T]) -> _T:
    """Return what a step returns. A caller that is cancelled waits for its end, and hears of a failure before that."""
    task = asyncio.ensure_future(step)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            # More than one cancellation may come: of the client, and of a server that drains.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({task})
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error from None
        raise


async def thread_to_its_end(work: Callable[_P, _T], *args: _P.args, **options: _P.kwargs) -> _T:
    """Return what work in a thread returns. A caller that is cancelled waits for it, and frees what it uses after."""
    return await to_the_end(asyncio.to_thread(work, *args, **options))


async def all_to_their_ends(works: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Return what works beside each other return, when the last has ended, even if one fails; then raise the first."""
    begun = [asyncio.ensure_future(work) for work in works]
    await asyncio.gather(*begun, return_exceptions=True)
    return [work.result() for work in begun]


async def outcomes(works: Iterable[Coroutine[Any, Any, _T]]) -> list[_T | Exception]:
    """Return what works beside each other return or raise, when the last has ended."""
    found: list[_T | Exception] = []
    for outcome in await asyncio.gather(*works, return_exceptions=True):
        if isinstance(outcome, BaseException) and not isinstance(outcome, Exception):
            raise outcome
        found.append(outcome)
    return found


class Unbroken:
    """Owns such work, and waits for it at the end."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Return what the work returns. A caller that is cancelled goes at once; the work goes on."""
        return await self.result_of(self.begin(work))

    def begin(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Return the task that does the work; `result_of` waits for it."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def result_of(self, task: asyncio.Task[_T]) -> _T:
        """Return what came of work; when it fails and its caller has gone, the log tells."""
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_tell)
            raise

    async def close(self) -> None:
        """Wait for all that is going on, for a minute at most; what still goes on then is broken off."""
        now = asyncio.get_running_loop().time
        until = now() + _END_LIMIT_S
        while self._tasks and now() < until:
            await asyncio.wait(self._tasks, timeout=until - now())
        await self.break_off()

    async def break_off(self) -> None:
        """Cancel what is going on, and wait until it has ended."""
        await end(self._tasks)


class OneAtATime:
    """Unbroken work of which the same is done once at a time, and a bounded number in all.

    A call that was cut is repeated. Were its work thrown away, a busy service would begin the same work again and again
    and finish none of it; so the repetition waits for what runs, and finds it done.
    """

    def __init__(self, most: int) -> None:
        """Let at most so many run at once, and half as many of one party, so that nobody keeps all others out."""
        self._most = most
        self._unbroken = Unbroken()
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
        task = self._running[key] = self._unbroken.begin(work())
        self._of_party[party] += 1
        # Not in the work itself: one that is cancelled before its first step never runs.
        task.add_done_callback(lambda _: self._ended(party, key))
        return await self._unbroken.result_of(task)

    async def break_off(self) -> None:
        """Cancel what runs, and wait until it has ended: at the end of the process, when nothing more begins."""
        await self._unbroken.break_off()

    def _ended(self, party: Hashable, key: Hashable) -> None:
        del self._running[key]
        self._of_party[party] -= 1
        if not self._of_party[party]:
            del self._of_party[party]


def _tell(task: asyncio.Task[Any]) -> None:
    """Log what went wrong with work that nobody waits for any more."""
    if task.cancelled() or (error := task.exception()) is None:
        return
    if isinstance(error, AtelierError):
        log.info("unawaited_work_refused", reason=error.reason, error=error.message)
    else:
        log.error("unawaited_work_failed", exc_info=error)
