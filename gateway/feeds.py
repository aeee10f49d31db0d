"""Streams of services, each read once for all who watch the same with the same key: a stream of gRPC is not cheap.

Whoever watches something first opens the stream, from where it wants to begin, and it becomes the feed of all who
come later. Each of them catches up by a call of its own, which the service authorises as any other and which ends when
it has told what there is; from then on the feed goes on for it, and cursors decide what it knows already. Who cannot
take what the feed says catches up in the same way.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Coroutine
from datetime import timedelta
from functools import lru_cache
from typing import Any, Protocol

from gateway.backends import Backends
from gateway.news import News, Watched
from gateway.requests import message_class
from gateway.streams import Watch, is_expired, refusal_of, shared
from service_kit.errors import AtelierError, Internal
from service_kit.events import Cursor, decode_cursor
from service_kit.events.watching import ONCE
from service_kit.tasks import end
from service_kit.telemetry import get_logger

log = get_logger(__name__)

_MOST_HELD = 64


class Watcher(Protocol):
    """One client's end: what a seat tells, in order."""

    @property
    def full(self) -> bool:
        """Whether it cannot take more at the moment."""

    def hear(self, seat: Seat, news: News) -> None:
        """Take news; only called when there is room."""

    async def room(self) -> None:
        """Return when there is room."""

    def lost(self, seat: Seat, error: AtelierError | None) -> None:
        """Learn that nothing more will come through a seat: because of an error, or because all has been said."""


class Seat:
    """One watcher's place at a feed. It is live, or catches up, holding meanwhile what the feed says."""

    __slots__ = ("_answers", "_cursor", "_feed", "_feeds", "_held", "_missed", "_task", "_watched", "_watcher")

    def __init__(self, feeds: Feeds, watched: Watched, cursor: str, watcher: Watcher) -> None:
        """Watch from a cursor on, which may be empty. Nothing happens before `join`."""
        self._feeds = feeds
        self._watched = watched
        self._watcher = watcher
        self._cursor = shared(cursor)
        self._feed: Feed | None = None
        self._held: list[News] | None = None
        self._missed = False
        # Whether what comes next answers the cursor. One that the service did not know may lie behind the answer.
        self._answers = False
        self._task: asyncio.Task[None] | None = None

    async def join(self) -> bool:
        """Begin, or go on after the feed was lost. Returns False when there is nothing to come after the cursor.

        Raises:
            AtelierError: the service refuses the call or cannot be reached.
        """
        self.leave()
        while (feed := self._feeds.find(self._watched)) is not None:
            if await feed.is_open() and feed is self._feeds.find(self._watched):
                self._watched = feed.watched
                return await self._join(feed)
        feed = Feed(self._feeds, self._watched, self._cursor)
        if not await feed.open():
            return False
        self._sit(feed)
        self._answers = True
        feed.start()
        return True

    async def _join(self, feed: Feed) -> bool:
        self._sit(feed)
        # From this moment on everything is held, so nothing falls between the call and the feed.
        self._held, self._missed = [], False
        try:
            watch = await self._ask()
        except BaseException:
            self.leave()
            raise
        if watch is None:
            self.leave()
            return False
        self._task = self._feeds.spawn(self._catch_up(feed, watch))
        # A task that is cancelled before its first step never comes to end the call.
        self._task.add_done_callback(lambda _: watch.cancel())
        return True

    def hear(self, news: News) -> None:
        """Take what the feed says, or note that it was missed. Never waits."""
        if self._held is None:
            if not self._watcher.full:
                self._give(news)
            elif self._feed is not None:
                self._held, self._missed = [], True
                self._task = self._feeds.spawn(self._catch_up(self._feed, None))
        elif self._missed or len(self._held) >= _MOST_HELD:
            self._missed = True
        else:
            self._held.append(news)

    @property
    def full(self) -> bool:
        """Whether it would miss what the feed says next."""
        return self._watcher.full if self._held is None else self._missed or len(self._held) >= _MOST_HELD

    def feed_ended(self, error: AtelierError | None) -> None:
        """Learn that the feed has ended; while it catches up, a seat looks for itself when it has."""
        if self._held is None:
            self._watcher.lost(self, error)

    def made_room(self) -> None:
        """Tell the feed that the watcher can take more."""
        if self._feed is not None:
            self._feed.room.set()

    def leave(self) -> asyncio.Task[None] | None:
        """Watch no more. Returns the task that ends with this, if there is one."""
        feed, self._feed = self._feed, None
        task, self._task = self._task, None
        self._held = None
        if task is not None:
            task.cancel()
        if feed is not None:
            feed.remove(self)
        return task

    def _sit(self, feed: Feed) -> None:
        self._feed = feed
        feed.seats.add(self)

    def _give(self, news: News) -> None:
        """Give news that the watcher does not know yet."""
        answers, self._answers = self._answers, False
        if news.cursor:
            if not answers and _is_known(_place(news.cursor), _place(self._cursor)):
                return
            self._cursor = news.cursor
        self._watcher.hear(self, news)

    async def _put(self, news: News) -> None:
        while self._watcher.full:
            await self._watcher.room()
        self._give(news)

    async def _ask(self) -> Watch | None:
        """Ask for what came after the cursor, until now. Returns None when nothing did and nothing will."""
        watch = self._feeds.watch(self._watched, self._cursor, once=True)
        if await watch.open(self._feeds.limit):
            return watch
        watch.cancel()
        return None

    async def _catch_up(self, feed: Feed, watch: Watch | None) -> None:
        """Give what was missed and then what was held meanwhile, until nothing is missed any more."""
        try:
            while watch is not None or self._missed:
                if watch is None:
                    self._missed = False
                    watch = await self._ask()
                if watch is not None:
                    await self._read(watch)
                    watch = None
                while self._held:
                    await self._put(self._held.pop(0))
                if feed.failed:
                    break
        except AtelierError as error:
            self._lose(error)
            return
        except Exception:
            log.exception("feed_fault", path=self._watched.path)
            self._lose(Internal())
            return
        self._held = self._task = None
        self.made_room()
        if feed.over:
            self._lose(feed.error)

    def _lose(self, error: AtelierError | None) -> None:
        self._task = None
        self.leave()
        self._watcher.lost(self, error)

    async def _read(self, watch: Watch) -> None:
        self._answers = True
        try:
            async for message in watch.messages():
                await self._put(News.of(message))
        except AtelierError as error:
            if not is_expired(error):
                raise
            # The token ended, nothing else did.
            self._missed = True
        finally:
            self._answers = False
            watch.cancel()


@lru_cache(maxsize=1024)
def _place(cursor: str) -> Cursor | None:
    return decode_cursor(cursor)


def _is_known(place: Cursor | None, known: Cursor | None) -> bool:
    """Tell whether an event lies before a place; of other epochs, after a backup was restored, that cannot be said."""
    return place is not None and known is not None and place.epoch == known.epoch and place.position <= known.position


class Feed:
    """One stream of a service, and those who have a seat at it. It ends when nobody has."""

    def __init__(self, feeds: Feeds, watched: Watched, cursor: str) -> None:
        """Read from a cursor on. Nothing happens before `open`."""
        self.watched = watched
        self.seats: set[Seat] = set()
        self.room = asyncio.Event()
        self.over = False
        self.error: AtelierError | None = None
        """Why it is over; None when all was said."""
        self._feeds = feeds
        self._watch = feeds.watch(watched, cursor)
        self._opened: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._refusal: AtelierError | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def failed(self) -> bool:
        """Whether it ended too early."""
        return self.over and self.error is not None

    async def open(self) -> bool:
        """Begin the stream. Returns False when nothing comes after the cursor.

        Raises:
            AtelierError: the service refuses the call or cannot be reached.
        """
        self._feeds.add(self)
        there = False
        try:
            there = await self._watch.open(self._feeds.limit)
        except AtelierError as error:
            self._refusal = error
            raise
        finally:
            if not there:
                self._watch.cancel()
                self._feeds.forget(self)
            self._opened.set_result(there)
        return there

    async def is_open(self) -> bool:
        """Return whether it is open, when that is known.

        Raises:
            AtelierError: the service refused it. It would refuse another call with the same identity as well.
        """
        there = await asyncio.shield(self._opened)
        if self._refusal is not None:
            # A copy: a raised exception collects the traces of all who raise it.
            raise copy.copy(self._refusal)
        return there

    def start(self) -> None:
        """Read for everybody who has a seat."""
        self._task = self._feeds.spawn(self._read())

    def end(self, error: AtelierError) -> None:
        """End it for all who have a seat."""
        if self.over:
            return
        self.over, self.error = True, error
        self._feeds.forget(self)
        self._watch.cancel()
        if self._task is not None:
            self._task.cancel()
        for seat in tuple(self.seats):
            seat.feed_ended(error)

    def remove(self, seat: Seat) -> None:
        """Take a seat away. Nobody reads a stream that nobody watches."""
        self.seats.discard(seat)
        self.room.set()
        if not self.seats and not self.over:
            self.over = True
            self._feeds.forget(self)
            self._watch.cancel()
            if self._task is not None:
                self._task.cancel()

    async def _read(self) -> None:
        error: AtelierError | None = None
        try:
            await self._spread()
        except AtelierError as broken:
            error = broken
        except Exception:
            log.exception("feed_fault", path=self.watched.path)
            error = Internal()
        finally:
            self._feeds.forget(self)
            self._watch.cancel()
        self.over, self.error = True, error
        for seat in tuple(self.seats):
            seat.feed_ended(error)

    async def _spread(self) -> None:
        """Give every message to all; one whose token's end ended it goes on with a new token, unseen."""
        while True:
            try:
                async for message in self._watch.messages():
                    news = News.of(message)
                    for seat in tuple(self.seats):
                        seat.hear(news)
                    # Who is slow alone catches up later; the service itself is slowed while everybody is.
                    while self.seats and all(seat.full for seat in self.seats):
                        self.room.clear()
                        await self.room.wait()
                return
            except AtelierError as error:
                if not is_expired(error):
                    raise
            if not await self._watch.open(self._feeds.limit):
                return


class Feeds:
    """The feeds of one gateway, by what is watched."""

    def __init__(self, backends: Backends, limit: timedelta) -> None:
        """Give each call `limit` to begin."""
        self.limit = limit
        self._backends = backends
        self._feeds: dict[Watched, Feed] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def find(self, watched: Watched) -> Feed | None:
        """Return the feed of those who watch the same; it may still be opening. None when there is none."""
        return self._feeds.get(watched)

    def add(self, feed: Feed) -> None:
        """Let others find a feed."""
        self._feeds[feed.watched] = feed

    def forget(self, feed: Feed) -> None:
        """Let nobody find a feed any more."""
        if self._feeds.get(feed.watched) is feed:
            del self._feeds[feed.watched]

    async def recheck(self) -> None:
        """End the feeds whose identity is refused by now: what remembers tokens has forgotten some."""
        for feed in tuple(self._feeds.values()):
            refused = await refusal_of(feed.watched.access)
            if refused is not None:
                feed.end(refused)

    def watch(self, watched: Watched, cursor: str, *, once: bool = False) -> Watch:
        """Return a call that begins after a cursor; `once`: it ends when it has told what there is."""
        request = message_class(watched.route.method.input_type).FromString(watched.request)
        request.after = cursor  # type: ignore[attr-defined]
        return Watch(self._backends, watched.route, request, watched.access, how=ONCE if once else "")

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run work in a task that `close` ends at the latest."""
        task = asyncio.create_task(work, name="feed")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """End all feeds."""
        await end(self._tasks)
