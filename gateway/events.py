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
from collections.abc import Coroutine, Iterable, Mapping
from functools import lru_cache, partial
from typing import Any

from gateway.backends import Metadata
from gateway.context import Context
from gateway.event_stream import EventStream
from gateway.feeds import Seat
from gateway.http import Exchange, Reply
from gateway.http_rules import RpcRoute
from gateway.news import News, Watched
from gateway.render import dump
from gateway.requests import message_class, query_pairs
from gateway.sse import frame
from gateway.status import error_body
from gateway.streams import LAST_EVENT_ID, MAX_CURSOR, shared
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

_NAMES = tuple(SOURCES)
_VERSION = 1
_MAX_ID = 4096
_PASSING = (Unavailable, DeadlineExceeded, Internal, ResourceExhausted)
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


@lru_cache(maxsize=1024)
def _event_id(cursors: tuple[str, ...]) -> str:
    """Return the id of an event after which each source is at its cursor, by the places of the sources."""
    return encode_cursors({name: cursor for name, cursor in zip(SOURCES, cursors, strict=True) if cursor})


async def serve_events(context: Context, routes: Mapping[str, RpcRoute], exchange: Exchange) -> Reply:
    """Serve the merged stream; `routes` are the watch RPCs by source.

    Raises:
        AtelierError: there is no identity, or the services refuse it; the owner has too many open streams.
    """
    entries = await context.access(exchange)()
    cursors = decode_cursors(_after(exchange))
    watched = {
        name: context.watched(exchange, route, message_class(route.method.input_type)())
        for name, route in routes.items()
    }
    client = _Merged(context, exchange, entries, watched, cursors)
    try:
        await client.begin()
    except BaseException:
        await client.close()
        raise
    return Reply(200, stream=partial(client.run, context.ping_interval))


def _after(exchange: Exchange) -> str:
    given: list[str] = []
    for name, text in query_pairs(exchange.query_string):
        if name != "after":
            raise InvalidArgument.field(name[:300], unknown_hint(name, {"after": None}), ErrorReason.UNKNOWN_FIELD)
        given.append(text)
    if len(given) > 1:
        raise InvalidArgument.field("after", "is given twice", ErrorReason.MALFORMED_REQUEST)
    return exchange.headers.get(LAST_EVENT_ID) or "".join(given)


class _Merged(EventStream):
    """Sends what all sources tell. One that is down is asked again and again, and the others go on."""

    __slots__ = ("_cursors", "_pauses", "_seats", "_tasks")

    def __init__(
        self,
        context: Context,
        exchange: Exchange,
        entries: Metadata,
        watched: Mapping[str, Watched],
        cursors: Mapping[str, str],
    ) -> None:
        super().__init__(exchange, context.streams, entries)
        # By the places of the sources.
        self._cursors = tuple(shared(cursors.get(name, "")) for name in SOURCES)
        self._seats = tuple(Seat(context.feeds, watched[name], cursors.get(name, ""), self) for name in SOURCES)
        self._tasks: list[asyncio.Task[None]] = []
        # How long the next pause is before a source that was down, and has said nothing since, is asked again.
        self._pauses: dict[Seat, float] = {}

    async def begin(self) -> None:
        """Return when a source has said that the caller is welcome, or is down: after that no status can be said.

        Raises:
            AtelierError: the caller is not.
        """
        joining = [self._start(self._join(seat)) for seat in self._seats]
        done, later = await asyncio.wait(joining, return_when=asyncio.FIRST_COMPLETED)
        for fault in [task.exception() for task in done]:
            if fault is not None:
                raise fault
        for task in later:
            task.add_done_callback(self._joined)

    def hear(self, seat: Seat, news: News) -> None:
        place = self._seats.index(seat)
        event_id = ""
        if news.cursor:
            self._cursors = (*self._cursors[:place], news.cursor, *self._cursors[place + 1 :])
            event_id = _event_id(self._cursors)
        if self._pauses:
            self._pauses.pop(seat, None)
        self.offer(news.framed(f"{_NAMES[place]}.{news.event}", event_id))

    def lost(self, seat: Seat, error: AtelierError | None) -> None:
        if error is None or isinstance(error, _PASSING):
            self._go_down(seat)
        else:
            self._refuse(error)

    def made_room(self) -> None:
        for seat in self._seats:
            seat.made_room()

    def leave(self) -> Iterable[asyncio.Task[None] | None]:
        for task in self._tasks:
            task.cancel()
        return (*(seat.leave() for seat in self._seats), *self._tasks)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name="event-source")
        self._tasks.append(task)
        task.add_done_callback(self._tasks.remove)
        return task

    async def _join(self, seat: Seat) -> None:
        try:
            await seat.join()
        except _PASSING:
            self._go_down(seat)

    def _joined(self, task: asyncio.Task[None]) -> None:
        fault = None if task.cancelled() else task.exception()
        if fault is not None:
            self._refuse(fault)

    def _go_down(self, seat: Seat) -> None:
        self._say("unavailable", seat)
        self._start(self._come_back(seat))

    async def _come_back(self, seat: Seat) -> None:
        while True:
            pause = self._pauses.get(seat, _FIRST_PAUSE)
            self._pauses[seat] = min(pause * 2, _LONGEST_PAUSE)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreads reconnects, guards nothing
            try:
                await seat.join()
            except _PASSING:
                continue
            except Exception as fault:  # noqa: BLE001 - whatever it is, the client is told and the stream ends
                self._refuse(fault)
            else:
                self._say("resync", seat)
            return

    def _refuse(self, fault: BaseException) -> None:
        """End the stream with an error."""
        if not isinstance(fault, AtelierError):
            log.error("event_source_fault", exc_info=fault)
            fault = Internal()
        self.offer(frame("error", dump(error_body(fault, self.request_id))))
        self.finish()

    def _say(self, event: str, seat: Seat) -> None:
        self.offer(frame(event, dump({"source": _NAMES[self._seats.index(seat)]})))
