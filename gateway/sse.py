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
    upcoming: asyncio.Task[bytes | None] | None = None
    try:
        await exchange.start(200, HEADERS)
        if opening:
            await exchange.write(opening)
        while True:
            upcoming = upcoming or asyncio.create_task(_following(frames), name="sse-next")
            done, _ = await asyncio.wait(
                {upcoming, gone, stopping},
                timeout=ping_interval.total_seconds(),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if gone in done:
                return
            if stopping in done:
                break
            if upcoming not in done:
                await exchange.write(PING)
                continue
            content, upcoming = upcoming.result(), None
            if content is None:
                break
            await exchange.write(content)
        await exchange.write(b"", more=False)
    finally:
        tasks = [task for task in (gone, stopping, upcoming) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await frames.aclose()


async def _following(frames: AsyncGenerator[bytes, None]) -> bytes | None:
    return await anext(frames, None)
