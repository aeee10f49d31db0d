"""Work that is done together: one transaction for whatever came while the one before it ran.

A lone item is not kept waiting. Under load a batch gathers for a few milliseconds, because a transaction costs about
the same for one row and for a hundred.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import timedelta
from typing import Generic, TypeVar

from service_kit.errors import AtelierError, DeadlineExceeded, ResourceExhausted, Unavailable
from service_kit.tasks import end, woken
from service_kit.telemetry import get_logger

log = get_logger(__name__)

T = TypeVar("T")
R = TypeVar("R")

MOST_AT_ONCE = 256
MOST_WAITING = 8192
GATHER_FOR = timedelta(milliseconds=3)
TURN_WITHIN = timedelta(seconds=10)
_RETRY_AFTER = timedelta(seconds=1)
# The database gives up before that.
_END_LIMIT_S = 60.0
# What would meet the next item in the same way: the caller repeats it later.
_PASSING = (Unavailable, ResourceExhausted, DeadlineExceeded)


class Batcher(Generic[T, R]):
    """Gathers items and hands them to `run`, one batch at a time, in the order in which they came."""

    def __init__(
        self,
        name: str,
        run: Callable[[Sequence[T]], Awaitable[Sequence[R | AtelierError]]],
        *,
        most: int = MOST_AT_ONCE,
        most_waiting: int = MOST_WAITING,
        gather_for: timedelta = GATHER_FOR,
        turn: asyncio.Lock | None = None,
        turn_within: timedelta = TURN_WITHIN,
    ) -> None:
        """Make an idle batcher; it runs a task only while there is something to do.

        Args:
            name: what it does, for the log, such as `router.record`.
            run: does a batch and returns a result for each item in order; an error there is raised to its caller only.
                What it raises as a whole is the answer of every item if it will pass, such as a database that cannot be
                reached; after anything else the items are run one by one, so that a bad one harms only itself.
            most: how many items a batch has at most.
            most_waiting: how many items may wait; one more is refused.
            gather_for: how long a batch gathers while there is load.
            turn: what is held while a batch runs, such as `Database.batch_turn`: it has whatever came until its turn.
            turn_within: how long others may keep that; then what waits is refused.
        """
        self._name = name
        self._run = run
        self._most = most
        self._most_waiting = most_waiting
        self._gather_for_s = gather_for.total_seconds()
        self._turn = turn or asyncio.Lock()
        self._turn_within_s = turn_within.total_seconds()
        self._waiting: deque[tuple[T, asyncio.Future[R]]] = deque()
        self._full = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def submit(self, item: T) -> R:
        """Have an item done with others and return its result. A caller that gives up before it began takes it back.

        Raises:
            ResourceExhausted: too many items wait, or others kept the turn for too long.
            Unavailable: the batcher is closed.
            Exception: what `run` answered for the item.
        """
        if self._closed:
            raise _stopping()
        if len(self._waiting) >= self._most_waiting:
            raise ResourceExhausted(
                f"{self._most_waiting} requests of this kind wait already; repeat in a moment.",
                retry_after=_RETRY_AFTER,
            )
        future: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._task is None:
            # In a context of its own: the batch is not the first caller's request.
            self._task = asyncio.get_running_loop().create_task(
                self._work(), name=self._name, context=contextvars.Context()
            )
        elif len(self._waiting) >= self._most:
            self._full.set()
        return await future

    async def close(self) -> None:
        """Let the batch that runs end; refuse what waits and what comes."""
        self._closed = True
        for _, future in self._waiting:
            if not future.done():
                future.set_exception(_stopping())
        self._waiting.clear()
        self._full.set()
        if self._task is not None:
            _, running = await asyncio.wait({self._task}, timeout=_END_LIMIT_S)
            await end(running)

    async def _work(self) -> None:
        try:
            while self._waiting:
                if not await self._has_turn():
                    self._refuse_waiting()
                    return
                try:
                    batch = self._take()
                    if batch:
                        await self._do(batch)
                finally:
                    self._turn.release()
                # More than one came while that ran: others are on their way.
                if 1 < len(self._waiting) < self._most:
                    await self._gather()
        except BaseException as error:
            _fail(self._waiting, error)
            self._waiting.clear()
            raise
        finally:
            self._task = None

    async def _has_turn(self) -> bool:
        """Wait for the turn, which the caller gives back. Returns False when others kept it for too long."""
        try:
            # Also of a turn that is free: whoever was woken for it may have it first.
            async with asyncio.timeout(self._turn_within_s):
                return await self._turn.acquire()
        except TimeoutError:
            return False

    def _refuse_waiting(self) -> None:
        log.warning("batch_had_no_turn", batch=self._name, items=len(self._waiting))
        busy = ResourceExhausted(
            f"Other work kept the database for {self._turn_within_s:g} seconds; repeat in a moment.",
            retry_after=_RETRY_AFTER,
        )
        _fail(self._waiting, busy)
        self._waiting.clear()

    async def _gather(self) -> None:
        self._full.clear()
        await woken(self._full, self._gather_for_s)

    def _take(self) -> list[tuple[T, asyncio.Future[R]]]:
        batch: list[tuple[T, asyncio.Future[R]]] = []
        while self._waiting and len(batch) < self._most:
            item, future = self._waiting.popleft()
            if not future.done():
                batch.append((item, future))
        return batch

    async def _do(self, batch: Sequence[tuple[T, asyncio.Future[R]]]) -> None:
        try:
            results = await self._run([item for item, _ in batch])
        except _PASSING as error:
            _fail(batch, error)
        except Exception as error:  # noqa: BLE001 - each caller hears what concerns it
            if len(batch) == 1:
                _fail(batch, error)
                return
            log.warning("batch_taken_apart", batch=self._name, items=len(batch), error=repr(error))
            for one in batch:
                await self._do([one])
        except BaseException as error:
            _fail(batch, error)
            raise
        else:
            for (_, future), result in zip(batch, results, strict=True):
                if future.done():
                    continue
                if isinstance(result, AtelierError):
                    future.set_exception(result)
                else:
                    future.set_result(result)


def _fail(batch: Iterable[tuple[T, asyncio.Future[R]]], error: BaseException) -> None:
    for _, future in batch:
        if future.done():
            continue
        if isinstance(error, asyncio.CancelledError):
            future.cancel()
        else:
            future.set_exception(error)


def _stopping() -> Unavailable:
    return Unavailable("The service is stopping.", retry_after=_RETRY_AFTER)
