"""Server-sent events (WHATWG HTML, section 9.2): framing, pings, and the end of everything when the client goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from datetime import timedelta

from gateway.closing import Closing
from gateway.http import Exchange

PING_INTERVAL = timedelta(seconds=15)
LAST_WORDS = timedelta(seconds=2)
"""Less than the web server waits for the requests that run: what does not end by then ends without a word."""
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
    closing: Closing,
    ping_interval: timedelta = PING_INTERVAL,
    opening: bytes = OPENING,
    last_words: timedelta = LAST_WORDS,
) -> None:
    """Send what `frames` gives until it ends, the client goes, or the gateway closes; then close `frames`.

    `opening` goes before everything, so that a client knows that the stream is open before anything happens.
    `last_words`: how long `frames` may go on when the gateway closes, to say that the stream is not complete.
    The next frame is asked for when the last one is written: a client that reads slowly slows the source.

    Raises:
        ClientGone: the client stopped reading.
    """
    gone = asyncio.create_task(exchange.disconnected(), name="sse-disconnect")
    sender = _Sender(exchange, frames, ping_interval)
    tasks = [gone]
    try:
        await exchange.start(200, HEADERS)
        if opening:
            await exchange.write(opening)
        sending = asyncio.create_task(sender.send_all(), name="sse-sender")
        tasks.append(sending)
        while not sending.done() and not closing.is_set():
            await _news(tasks, closing, sender.silent_in_s)
            if gone.done() and not sending.done():
                return
            if sender.silent_in_s <= 0:
                await sender.ping()
        if not sending.done():
            await asyncio.wait(tasks, timeout=last_words.total_seconds(), return_when=asyncio.FIRST_COMPLETED)
        if gone.done() and not sending.done():
            return
        if not sending.done():
            sending.cancel()
            await asyncio.wait({sending})
        if not sending.cancelled():
            sending.result()
        else:
            await exchange.write(b"", more=False)
    finally:
        await _end(tasks)
        await frames.aclose()


async def _news(tasks: Sequence[asyncio.Task[None]], closing: Closing, seconds: float) -> None:
    """Return when a task has ended, the gateway closes, or the seconds are over."""
    # asyncio.wait needs a task for each of them, and costs as much as all that is sent.
    loop = asyncio.get_running_loop()
    woken = loop.create_future()

    def wake(task: asyncio.Task[None] | None = None) -> None:
        if not woken.done():
            woken.set_result(None)

    for task in tasks:
        task.add_done_callback(wake)
    closing.tell(wake)
    timer = loop.call_later(seconds, wake)
    try:
        await woken
    finally:
        timer.cancel()
        closing.forget(wake)
        for task in tasks:
            task.remove_done_callback(wake)


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    # A stream that ends by itself has ended both of them.
    if not all(task.done() for task in tasks):
        await asyncio.gather(*tasks, return_exceptions=True)


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
