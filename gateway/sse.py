"""Server-sent events (WHATWG HTML, section 9.2): framing, pings, and the end of everything when the client goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import timedelta

from gateway.http import Exchange

PING_INTERVAL = timedelta(seconds=15)
HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache, no-store",
    "x-accel-buffering": "no",
}
OPENING = b": open\nretry: 1000\n\n"
PING = b": ping\n\n"


def frame(event: str, data: bytes, cursor: str = "") -> bytes:
    """Return one event. `data` is JSON on one line; an event without a cursor cannot be resumed after."""
    id_line = f"id: {cursor}\n" if cursor else ""
    return f"event: {event}\n{id_line}data: ".encode() + data + b"\n\n"


def unnamed(data: bytes) -> bytes:
    """Return one event without a name; `data` is on one line."""
    return b"data: " + data + b"\n\n"


async def send_events(
    exchange: Exchange,
    frames: AsyncGenerator[bytes, None],
    *,
    closing: asyncio.Event,
    ping_interval: timedelta = PING_INTERVAL,
    opening: bytes = OPENING,
) -> None:
    """Send what `frames` gives until it ends, the client goes, or the gateway closes; then close `frames`.

    `opening` goes before everything, so that a client knows that the stream is open before anything happens.
    The next frame is asked for when the last one is written: a client that reads slowly slows the source.

    Raises:
        ClientGone: the client stopped reading.
    """
    gone = asyncio.create_task(exchange.disconnected(), name="sse-disconnect")
    stopping = asyncio.create_task(closing.wait(), name="sse-closing")
    sender = _Sender(exchange, frames, ping_interval)
    sending: asyncio.Task[None] | None = None
    try:
        await exchange.start(200, HEADERS)
        if opening:
            await exchange.write(opening)
        sending = asyncio.create_task(sender.send_all(), name="sse-sender")
        while True:
            tasks = {sending, gone, stopping}
            done, _ = await asyncio.wait(tasks, timeout=sender.silent_in_s, return_when=asyncio.FIRST_COMPLETED)
            if gone in done:
                return
            if done:
                break
            if sender.silent_in_s <= 0:
                await sender.ping()
        sending.cancel()
        await asyncio.wait({sending})
        if not sending.cancelled():
            sending.result()
        else:
            await exchange.write(b"", more=False)
    finally:
        ending = [task for task in (gone, stopping, sending) if task is not None]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        await frames.aclose()


class _Sender:
    """Writes frames as they come, and knows for how long nothing was written."""

    def __init__(self, exchange: Exchange, frames: AsyncGenerator[bytes, None], ping_interval: timedelta) -> None:
        self._exchange = exchange
        self._frames = frames
        self._interval_s = ping_interval.total_seconds()
        self._clock = asyncio.get_running_loop().time
        self._wrote_at = self._clock()
        self._is_writing = False

    @property
    def silent_in_s(self) -> float:
        """After how many seconds a ping is due, if nothing is written before; a whole interval while something is."""
        return self._interval_s if self._is_writing else self._wrote_at + self._interval_s - self._clock()

    async def send_all(self) -> None:
        """Write every frame, and the end of the body."""
        async for content in self._frames:
            await self._write(content)
        await self._exchange.write(b"", more=False)

    async def ping(self) -> None:
        """Write a ping."""
        await self._write(PING)

    async def _write(self, content: bytes) -> None:
        self._is_writing = True
        try:
            await self._exchange.write(content)
        finally:
            self._is_writing, self._wrote_at = False, self._clock()
