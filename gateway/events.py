"""`GET /v1/events`: jobs, assets and items of a caller in one stream, so that a browser needs one connection.

Each source is followed on its own. One that is down is announced as `unavailable`, later as
`resync`, and the others go on.
The id of an event is a map of one cursor per source, so any gateway resumes the stream.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import random
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from datetime import timedelta

from gateway.backends import Backends
from gateway.context import Context
from gateway.http import Exchange, Reply
from gateway.http_rules import RpcRoute
from gateway.render import dump, to_bytes
from gateway.requests import message_class, query_pairs
from gateway.sse import frame, send_events
from gateway.status import error_body
from gateway.streams import LAST_EVENT_ID, MAX_CURSOR, Access, Watch, cursor_of, event_name, is_expired
from gateway.transcode import unknown_hint
from service_kit.errors import (
    AtelierError,
    DeadlineExceeded,
    ErrorReason,
    Internal,
    InvalidArgument,
    ResourceExhausted,
    Unavailable,
)
from service_kit.telemetry import get_logger

log = get_logger(__name__)

SOURCES: Mapping[str, str] = {
    "jobs": "/atelier.router.v1.RouterService/WatchJobs",
    "assets": "/atelier.asset.v1.AssetService/WatchAssets",
    "items": "/atelier.library.v1.LibraryService/WatchItems",
}
"""What is merged, by the first part of the events' names."""

OPENED = "opened"
"""What a source says when it is followed for the first time; clients do not see it."""

_VERSION = 1
_MAX_ID = 4096
_QUEUE_SIZE = 64
_PASSING = (Unavailable, DeadlineExceeded, Internal, ResourceExhausted)
_OPEN_LIMIT = timedelta(seconds=10)
_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 5.0


def encode_cursors(cursors: Mapping[str, str]) -> str:
    """Return the id of a merged event: opaque, versioned text."""
    content = json.dumps({"v": _VERSION, "c": dict(sorted(cursors.items()))}, separators=(",", ":"))
    return base64.urlsafe_b64encode(content.encode()).decode("ascii").rstrip("=")


def decode_cursors(text: str) -> dict[str, str]:
    """Return the cursor of each source; empty for a text that is not ours, so that everything begins with snapshots."""
    if len(text) > _MAX_ID:
        return {}
    try:
        found = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict) or found.get("v") != _VERSION or not isinstance(found.get("c"), dict):
        return {}
    return {name: cursor for name, cursor in found["c"].items() if name in SOURCES and _is_cursor(cursor)}


def _is_cursor(value: object) -> bool:
    """Tell whether a value can be sent as a cursor; each of ours is a short ASCII text."""
    return isinstance(value, str) and value.isascii() and len(value) <= MAX_CURSOR


@dataclass(frozen=True, slots=True)
class News:
    """What a source has to say: an event of its own, or how it is."""

    source: str
    event: str
    data: bytes
    cursor: str = ""
    fatal: AtelierError | None = None


class Source:
    """Follows one service's events for as long as the caller stays, over its restarts and the token's end."""

    def __init__(
        self, name: str, backends: Backends, route: RpcRoute, access: Access, after: str, queue: asyncio.Queue[News]
    ) -> None:
        """Put what happens after the cursor `after` into `queue`; a full queue makes the source wait."""
        self.name = name
        request = message_class(route.method.input_type)(after=after)
        self._watch = Watch(backends, route, request, access)
        self._queue = queue
        self._opened = False
        self._told_down = False
        self._pause = _FIRST_PAUSE

    async def run(self) -> None:
        """Follow until cancelled, or until the service refuses this caller."""
        try:
            while True:
                broken = await self._follow()
                if is_expired(broken) and self._opened:
                    # The token ended, nothing else did. A new one that is refused as well is the caller's to know.
                    self._opened = False
                elif isinstance(broken, _PASSING):
                    await self._wait_out()
                else:
                    await self._queue.put(News(self.name, "error", b"", fatal=broken))
                    return
        except Exception:
            log.exception("event_source_fault", source=self.name)
            await self._queue.put(News(self.name, "error", b"", fatal=Internal()))
        finally:
            self._watch.cancel()

    async def _follow(self) -> AtelierError:
        """Follow one call to its end and return why it ended."""
        try:
            await self._watch.open(_OPEN_LIMIT)
            self._opened = True
            await self._say("resync" if self._told_down else OPENED)
            self._told_down = False
            async for message in self._watch.messages():
                self._pause = _FIRST_PAUSE
                name = f"{self.name}.{event_name(message)}"
                await self._queue.put(News(self.name, name, to_bytes(message), cursor_of(message)))
        except AtelierError as error:
            return error
        return Unavailable()

    async def _wait_out(self) -> None:
        if not self._told_down:
            self._told_down = True
            await self._say("unavailable")
        await asyncio.sleep(self._pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads reconnects, guards nothing
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    async def _say(self, event: str) -> None:
        await self._queue.put(News(self.name, event, dump({"source": self.name})))


async def serve_events(context: Context, routes: Mapping[str, RpcRoute], exchange: Exchange) -> Reply | None:
    """Serve the merged stream; `routes` are the watch RPCs by source.

    Raises:
        AtelierError: there is no identity, or the services refuse it.
    """
    access = context.access(exchange)
    await access()
    cursors = decode_cursors(_after(exchange))
    queue: asyncio.Queue[News] = asyncio.Queue(_QUEUE_SIZE)
    sources = [
        Source(name, context.backends, route, access, cursors.get(name, ""), queue) for name, route in routes.items()
    ]
    tasks = [asyncio.create_task(source.run(), name=f"events-{source.name}") for source in sources]
    try:
        # The first word of any source tells whether the caller is welcome, while that can still be said by a status.
        first = await queue.get()
        if first.fatal is not None:
            raise first.fatal
        frames = _frames(first, queue, cursors, exchange.request_id)
        await send_events(exchange, frames, closing=context.closing, ping_interval=context.ping_interval)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return None


def _after(exchange: Exchange) -> str:
    given: list[str] = []
    for name, text in query_pairs(exchange.query_string):
        if name != "after":
            raise InvalidArgument.field(name[:300], unknown_hint(name, {"after": None}), ErrorReason.UNKNOWN_FIELD)
        given.append(text)
    if len(given) > 1:
        raise InvalidArgument.field("after", "is given twice", ErrorReason.MALFORMED_REQUEST)
    return exchange.headers.get(LAST_EVENT_ID) or "".join(given)


async def _frames(
    first: News, queue: asyncio.Queue[News], cursors: dict[str, str], request_id: str
) -> AsyncGenerator[bytes, None]:
    news = first
    while True:
        if news.fatal is not None:
            yield frame("error", dump(error_body(news.fatal, request_id)))
            return
        if news.cursor:
            cursors[news.source] = news.cursor
        if news.event != OPENED:
            yield frame(news.event, news.data, encode_cursors(cursors) if news.cursor else "")
        news = await queue.get()
