"""Server-streaming RPCs as server-sent events: how they begin, resume, break and end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial

from google.protobuf.message import Message

from gateway.backends import Metadata
from gateway.context import Context
from gateway.event_stream import EventStream
from gateway.feeds import Seat
from gateway.http import Exchange, Reply
from gateway.http_rules import RpcRoute
from gateway.news import News, Watched
from gateway.render import dump
from gateway.sse import frame
from gateway.status import error_body
from gateway.streams import Access, begins_after
from service_kit.errors import AtelierError


async def serve_watch(context: Context, route: RpcRoute, exchange: Exchange, request: Message, access: Access) -> Reply:
    """Serve a watch RPC.

    Raises:
        AtelierError: the service refuses the call or cannot be reached; the owner has too many open streams.
    """
    cursor = begins_after(request, exchange.headers)
    client = _OneWatch(context, exchange, await access(), context.watched(exchange, route, request), cursor)
    try:
        there = await client.begin()
    except BaseException:
        await client.close()
        raise
    if not there:
        await client.close()
        # To an EventSource 204 says: do not come back.
        return Reply(204, {"cache-control": "no-store"})
    return Reply(200, stream=partial(client.run, context.ping_interval))


class _OneWatch(EventStream):
    """Sends what one RPC tells, each message under its own name, with its own cursor."""

    __slots__ = ("_seat",)

    def __init__(self, context: Context, exchange: Exchange, entries: Metadata, watched: Watched, cursor: str) -> None:
        super().__init__(exchange, context.streams, entries)
        self._seat = Seat(context.feeds, watched, cursor, self)

    async def begin(self) -> bool:
        """Begin to watch. Returns False when nothing comes after the cursor. Raises AtelierError."""
        return await self._seat.join()

    def hear(self, seat: Seat, news: News) -> None:
        self.offer(news.framed(news.event, news.cursor))

    def lost(self, seat: Seat, error: AtelierError | None) -> None:
        if error is not None:
            self.offer(frame("error", dump(error_body(error, self.request_id))))
        self.finish()

    def made_room(self) -> None:
        self._seat.made_room()

    def leave(self) -> Iterable[asyncio.Task[None] | None]:
        return (self._seat.leave(),)
