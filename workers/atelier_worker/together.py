"""What is ready at the same moment goes together.

A call costs the service and the worker more than the bytes of a small file do. So what comes while others are under way
waits for one of their calls to end, and goes with whatever else has come until then.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import grpc

CALLS_AT_ONCE = 2
MOST_TOGETHER = 16

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, eq=False)
class Waiting(Generic[T, R]):
    """Something that goes with a call, and who waits for what becomes of it."""

    what: T
    size_bytes: int
    answer: asyncio.Future[R]


class Together(Generic[T, R]):
    """Makes a few calls at once, each for what has come until then."""

    def __init__(
        self, name: str, send: Callable[[Sequence[Waiting[T, R]]], Awaitable[None]], *, most_bytes: int
    ) -> None:
        """Have `send` make the calls and answer whoever still waits; `most_bytes` go with one call, or a lone one.

        An AioRpcError that it raises is the answer to all of the call.
        """
        self._name = name
        self._send = send
        self._most_bytes = most_bytes
        self._waiting: deque[Waiting[T, R]] = deque()
        self._calls: set[asyncio.Task[None]] = set()
        self.several = True
        """Whether the service takes several: else each has a call of its own at once."""

    async def go(self, what: T, size_bytes: int, *, alone: bool = False) -> R:
        """Return what became of something; `alone` it waits for no other."""
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        item = Waiting(what, size_bytes, answer)
        if alone or not self.several or len(self._calls) < CALLS_AT_ONCE:
            self._call([item])
        else:
            self._waiting.append(item)
        return await answer

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

    def _call(self, items: Sequence[Waiting[T, R]]) -> None:
        call = asyncio.create_task(self._answered(items), name=self._name)
        self._calls.add(call)
        call.add_done_callback(self._ended)

        def look(_: asyncio.Future[R]) -> None:
            if all(item.answer.cancelled() for item in items):
                # Nobody waits for it any more.
                call.cancel()

        for item in items:
            item.answer.add_done_callback(look)

    def _ended(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        while self._waiting and len(self._calls) < CALLS_AT_ONCE:
            # Perhaps nobody waits for any of them any more.
            if items := self._take():
                self._call(items)

    def _take(self) -> list[Waiting[T, R]]:
        items: list[Waiting[T, R]] = []
        size_bytes = 0
        while self._waiting and len(items) < MOST_TOGETHER:
            item = self._waiting[0]
            if items and (size_bytes + item.size_bytes > self._most_bytes or not self.several):
                break
            self._waiting.popleft()
            if not item.answer.done():
                items.append(item)
                size_bytes += item.size_bytes
        return items

    async def _answered(self, items: Sequence[Waiting[T, R]]) -> None:
        try:
            await self._send(items)
        except grpc.aio.AioRpcError as error:
            for item in items:
                if not item.answer.done():
                    item.answer.set_exception(error)
        except BaseException:
            for item in items:
                item.answer.cancel()
            raise
