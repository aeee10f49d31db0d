"""What is ready at the same moment goes together.

A call costs the service and the worker more than the bytes of a small file do. So a call begins a turn of the loop
after the first that it is for, and whatever becomes ready in that moment goes along. What comes while as many calls are
under way as may be waits for one of them to end.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import grpc

from service_kit.telemetry import get_logger

log = get_logger(__name__)

CALLS_AT_ONCE = 2
MOST_TOGETHER = 16
WORTH_DIVIDING = 8
"""Fewer go with one call, though another could be made: it costs more than both save beside each other."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, eq=False)
class Waiting(Generic[T, R]):
    """Something that goes with a call, and who waits for what becomes of it."""

    what: T
    answer: asyncio.Future[R]


class Together(Generic[T, R]):
    """Makes a few calls at once, and gives each its share of what is there."""

    def __init__(
        self, name: str, send: Callable[[list[Waiting[T, R]]], Awaitable[None]], *, divided_from: int = WORTH_DIVIDING
    ) -> None:
        """Have `send` make the calls and answer whoever still waits; what is too much for one it may `put_back`.

        As many as `divided_from` go with several calls though none is under way. What `send` raises is the answer to
        all of the call.
        """
        self._name = name
        self._send = send
        self._divided_from = divided_from
        self._waiting: deque[Waiting[T, R]] = deque()
        self._calls: dict[asyncio.Task[None], list[Waiting[T, R]]] = {}
        self._beginning = False
        self.several = True
        """Whether the service takes several: else each has a call of its own at once."""

    async def go(self, what: T, *, alone: bool = False) -> R:
        """Return what became of something; `alone` it waits for no other."""
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        item = Waiting(what, answer)
        if alone or not self.several:
            self._call([item])
        else:
            self._waiting.append(item)
            self._begin_soon()
        return await answer

    def put_back(self, items: list[Waiting[T, R]], kept: int) -> None:
        """Let all but the first `kept` of a call, one at least, wait for the next."""
        self._waiting.extendleft(reversed(items[kept:]))
        del items[kept:]
        self._begin_soon()

    async def each_alone(self, items: Sequence[Waiting[T, R]]) -> None:
        """Send what went together one by one, in the call that was theirs."""
        await asyncio.gather(*(self._answered([item]) for item in items))

    async def close(self) -> None:
        """Break off what is under way; whoever waits for it is cancelled."""
        for item in self._waiting:
            item.answer.cancel()
        self._waiting.clear()
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    def _begin_soon(self) -> None:
        if self._waiting and not self._beginning:
            self._beginning = True
            asyncio.get_running_loop().call_soon(self._begin)

    def _begin(self) -> None:
        self._beginning = False
        while self._waiting and len(self._calls) < CALLS_AT_ONCE:
            # Perhaps nobody waits for any of them any more.
            if items := self._take():
                self._call(items)

    def _take(self) -> list[Waiting[T, R]]:
        """Take one call's share. A full one beside a lone one would stay so: who is answered often comes again."""
        share = len(self._waiting) + sum(map(len, self._calls.values()))
        if share >= (WORTH_DIVIDING if self._calls else self._divided_from):
            share = -(-share // CALLS_AT_ONCE)
        share = min(MOST_TOGETHER, share) if self.several else 1
        items: list[Waiting[T, R]] = []
        while self._waiting and len(items) < share:
            item = self._waiting.popleft()
            if not item.answer.done():
                items.append(item)
        return items

    def _call(self, items: list[Waiting[T, R]]) -> None:
        call = asyncio.create_task(self._answered(items), name=self._name)
        self._calls[call] = items
        call.add_done_callback(self._ended)

        def look(answer: asyncio.Future[R]) -> None:
            if answer.cancelled() and all(item.answer.cancelled() for item in items):
                # Nobody waits for it any more.
                call.cancel()

        for item in items:
            item.answer.add_done_callback(look)

    def _ended(self, call: asyncio.Task[None]) -> None:
        del self._calls[call]
        self._begin_soon()

    async def _answered(self, items: list[Waiting[T, R]]) -> None:
        try:
            await self._send(items)
        except grpc.aio.AioRpcError as error:
            _fail(items, error)
        except Exception as error:
            log.exception("sent_together_failed", what=self._name)
            _fail(items, error)
        except BaseException as error:
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and not task.cancelling():
                # Nobody asked for it: whoever waits would take it for its own, and believe that it was stopped.
                _fail(items, _cut_off())
                return
            for item in items:
                item.answer.cancel()
            raise


def _fail(items: Sequence[Waiting[T, R]], error: Exception) -> None:
    for item in items:
        if not item.answer.done():
            item.answer.set_exception(error)


def _cut_off() -> grpc.aio.AioRpcError:
    nothing = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(
        grpc.StatusCode.CANCELLED, nothing, nothing, details="The call was cut off on this side."
    )
