"""One call within a process: what its two sides share.

Messages pass as bytes, so that nobody shares one that can change. Everything here belongs to one event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import grpc

MAX_MESSAGE_BYTES = 16 << 20
"""A page of 200 assets with the longest prompts fits."""
WINDOW_BYTES = 256 << 10
"""What a sender may have on its way in one direction while nobody reads it; one message passes however long it is."""
_MESSAGE_BYTES = 64  # what a message costs beside its bytes, so that empty ones are not without number

Entries = tuple[tuple[str, str | bytes], ...]
"""Metadata."""


@dataclass(frozen=True, slots=True)
class Status:
    """How a call ended. `locally` says that the client's side ended it: whoever reads hears of a cancellation."""

    code: grpc.StatusCode
    details: str = ""
    trailing: Entries = ()
    locally: bool = False


class Broken(Exception):
    """The call ended before all was read: nobody takes a part for the whole."""


class Waiters:
    """Those who wait for news. Each has a future of its own, so one that is cancelled does not end the others."""

    __slots__ = ("_futures",)

    def __init__(self) -> None:
        self._futures: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        """Return at the next `wake`."""
        future = asyncio.get_running_loop().create_future()
        self._futures.append(future)
        try:
            await future
        finally:
            if future in self._futures:
                self._futures.remove(future)

    def wake(self) -> None:
        """Let all who wait now look again."""
        futures, self._futures = self._futures, []
        for future in futures:
            if not future.done():
                future.set_result(None)


class Pipe:
    """The messages of one direction, in order: one writes, one reads, and the writer waits for the reader."""

    __slots__ = ("_broken", "_closed", "_held_bytes", "_messages", "_news")

    def __init__(self) -> None:
        self._messages: deque[bytes] = deque()
        self._held_bytes = 0
        self._closed = self._broken = False
        self._news = Waiters()

    async def put(self, message: bytes) -> bool:
        """Add a message as soon as there is room. Returns False when nobody will read it."""
        size = len(message) + _MESSAGE_BYTES
        while self._messages and self._held_bytes + size > WINDOW_BYTES and not self._closed:
            await self._news.wait()
        if self._closed:
            return False
        self.add(message)
        return True

    def add(self, message: bytes) -> None:
        """Add a message, whether or not there is room."""
        self._messages.append(message)
        self._held_bytes += len(message) + _MESSAGE_BYTES
        self._news.wake()

    @property
    def closed(self) -> bool:
        """Whether nothing more may be added."""
        return self._closed

    def first(self) -> bytes | None:
        """Return the next message without taking it; None when there is none."""
        return self._messages[0] if self._messages else None

    async def get(self) -> bytes | None:
        """Return the next message; None when all have been read. Raises Broken when the call is over."""
        while not self._messages and not self._closed:
            await self._news.wait()
        if self._broken:
            raise Broken
        if not self._messages:
            return None
        message = self._messages.popleft()
        self._held_bytes -= len(message) + _MESSAGE_BYTES
        self._news.wake()
        return message

    def close(self) -> None:
        """Say that nothing follows what is there."""
        self._closed = True
        self._news.wake()

    def break_off(self) -> None:
        """Forget what is there: nobody will read it. After `close` nothing that was missing can be missed."""
        self._broken = self._broken or not self._closed or bool(self._messages)
        self._messages.clear()
        self.close()


class Rpc:
    """What both sides of a call share. It ends once, by whoever says so first."""

    __slots__ = (
        "__weakref__",
        "_callbacks",
        "_timer",
        "deadline",
        "initial",
        "metadata",
        "method",
        "news",
        "requests",
        "responses",
        "status",
        "task",
    )

    def __init__(self, method: str, metadata: Entries) -> None:
        """Prepare a call; no handler runs yet."""
        self.method = method
        self.metadata = metadata
        self.requests, self.responses = Pipe(), Pipe()
        self.initial: Entries | None = None
        self.status: Status | None = None
        self.news = Waiters()
        """Wakes those who wait for the initial metadata or for the end."""
        self.task: asyncio.Task[None] | None = None
        """The handler."""
        self.deadline: float | None = None
        """By the loop's clock."""
        self._timer: asyncio.TimerHandle | None = None
        self._callbacks: list[Callable[[], object]] = []

    def limit(self, timeout_s: float | None) -> None:
        """Have the call end `timeout_s` from now, if it has not by then."""
        if timeout_s is None or self.status is not None:
            return
        loop = asyncio.get_running_loop()
        self.deadline = loop.time() + timeout_s
        self._timer = loop.call_later(timeout_s, self._late)

    def when_over(self, callback: Callable[[], object]) -> None:
        """Have something called at the end; at once, if that has been."""
        if self.status is not None:
            callback()
        else:
            self._callbacks.append(callback)

    def begin_answer(self, initial: Entries) -> None:
        """Tell the client the initial metadata, unless it was told."""
        if self.initial is None:
            self.initial = initial
            self.news.wake()

    def answer(self, status: Status) -> bool:
        """End the call as its handler says: what was written before is still read. Returns False when it had ended."""
        return self._end(status, self.responses.close)

    def break_off(self, status: Status) -> bool:
        """End the call from outside of its handler, which is cancelled. Returns False when it had ended."""
        if not self._end(status, self.responses.break_off):
            return False
        if self.task is not None:
            self.task.cancel()
        return True

    def cancel(self, details: str = "Locally cancelled by application!") -> bool:
        """End the call for its client. Returns False when it had ended."""
        return self.break_off(Status(grpc.StatusCode.CANCELLED, details, locally=True))

    async def over(self) -> Status:
        """Return how the call ended, when it has."""
        while self.status is None:
            await self.news.wait()
        return self.status

    def _late(self) -> None:
        self.break_off(Status(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"))

    def _end(self, status: Status, end_responses: Callable[[], None]) -> bool:
        if self.status is not None:
            return False
        self.status = status
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.requests.break_off()
        end_responses()
        self.news.wake()
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()
        return True


def too_long(content: bytes) -> Status | None:
    """Return how a call ends that has a message of more than `MAX_MESSAGE_BYTES`; None for one that may pass."""
    if len(content) <= MAX_MESSAGE_BYTES:
        return None
    text = f"Sent message larger than max ({len(content)} vs. {MAX_MESSAGE_BYTES})"
    return Status(grpc.StatusCode.RESOURCE_EXHAUSTED, text)


def remaining(rpc: Rpc) -> float | None:
    """Return the seconds until the deadline of a call; None without one."""
    return None if rpc.deadline is None else max(0.0, rpc.deadline - asyncio.get_running_loop().time())


def is_cancelled(rpc: Rpc) -> bool:
    """Tell whether a call was cancelled."""
    return rpc.status is not None and rpc.status.code is grpc.StatusCode.CANCELLED
