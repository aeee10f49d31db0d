"""One client's stream of server-sent events that others fill: it costs a task that waits, and what was not written yet.

Frames come from outside and are never waited for. What writes them is there only while there are any.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import timedelta

from gateway.backends import Metadata
from gateway.http import ClientGone, Exchange
from gateway.open_streams import OpenStreams
from gateway.sse import HEADERS, OPENING
from service_kit.tasks import end
from service_kit.telemetry import get_logger

log = get_logger(__name__)

_MOST_FRAMES = 64
_MOST_BYTES = 256 * 1024


class EventStream:
    """What is written to one client, in order. Whoever fills it stops while it is `full`."""

    __slots__ = (
        "_ends",
        "_exchange",
        "_owner",
        "_room",
        "_size",
        "_started",
        "_streams",
        "_waiting",
        "_writer",
        "written_at",
    )

    def __init__(self, exchange: Exchange, streams: OpenStreams, entries: Metadata) -> None:
        """Open a stream for whom calls with `entries` are about; `run` sends it, `close` has to follow.

        Raises:
            ResourceExhausted: the owner has too many open streams.
        """
        self._exchange = exchange
        self._streams = streams
        self._waiting: list[bytes] = []
        self._size = 0
        self._room: asyncio.Event | None = None
        self._writer: asyncio.Task[None] | None = None
        self._started = False
        self._ends = False
        self.written_at = 0.0
        """When something was written last, by the clock of the loop."""
        self._owner = streams.take(entries)

    async def run(self, ping_interval: timedelta) -> None:
        """Send what is offered until the stream is finished, the client goes, or the gateway closes.

        Raises:
            ClientGone: the client does not read.
        """
        try:
            await self._exchange.start(200, HEADERS)
            await self._exchange.write(OPENING)
            self._exchange.forget_request()
            self._started = True
            self.written_at = asyncio.get_running_loop().time()
            self._streams.add(self, ping_interval)
            self._write()
            await self._exchange.disconnected()
        finally:
            await self.close()

    @property
    def request_id(self) -> str:
        """The id of the request that opened it."""
        return self._exchange.request_id

    @property
    def full(self) -> bool:
        """Whether it should not be offered more."""
        return len(self._waiting) >= _MOST_FRAMES or self._size >= _MOST_BYTES

    @property
    def idle(self) -> bool:
        """Whether all was written."""
        return self._writer is None

    def offer(self, content: bytes) -> None:
        """Write a frame after those that wait already. Never waits."""
        if not self._ends:
            self._waiting.append(content)
            self._size += len(content)
            self._write()

    def finish(self) -> None:
        """End the stream when all that was offered is written."""
        self._ends = True
        self._write()

    async def room(self) -> None:
        """Return when it is not full."""
        while self.full:
            self._room = self._room or asyncio.Event()
            await self._room.wait()

    def made_room(self) -> None:
        """Called when it was full and is not any more."""

    def leave(self) -> Iterable[asyncio.Task[None] | None]:
        """Called when it is over. Returns tasks that were cancelled with that."""
        return ()

    async def close(self) -> None:
        """Let go of everything."""
        self._ends = True
        self._streams.remove(self)
        self._streams.give(self._owner)
        self._owner = None
        await end([task for task in (self._writer, *self.leave()) if task is not None])

    def _write(self) -> None:
        if self._started and self._writer is None:
            self._writer = asyncio.create_task(self._write_out(), name="event-stream")

    async def _write_out(self) -> None:
        try:
            while self._waiting:
                was_full, content = self.full, b"".join(self._waiting)
                self._waiting.clear()
                self._size = 0
                if was_full:
                    self._tell_room()
                await self._exchange.write(content)
            self.written_at = asyncio.get_running_loop().time()
            if self._ends:
                # With this the server says that there is nobody any more, which is what `run` waits for.
                await self._exchange.write(b"", more=False)
        except ClientGone:
            log.info("client_gone", request_id=self._exchange.request_id, path=self._exchange.scope["path"])
        finally:
            self._writer = None

    def _tell_room(self) -> None:
        if self._room is not None:
            self._room.set()
            self._room = None
        self.made_room()
