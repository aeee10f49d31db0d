"""Wake-ups within a process: "look again", without saying at what.

Many at once become one, so that nothing piles up.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from service_kit.errors import ResourceExhausted


class Waker:
    """One watcher's end: waits until its topic is notified."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._heard: set[Hashable] = set()
        # One timer for many waits, which mostly end long before it: when it is over it looks how much is left.
        self._timer: asyncio.TimerHandle | None = None
        self._waits_until = math.inf

    async def wait(self, limit: timedelta) -> frozenset[Hashable]:
        """Wait for a wake-up since the last wait.

        Returns:
            The topics that were notified; none when the time is over: look anyway.
        """
        if not self._event.is_set():
            loop = asyncio.get_running_loop()
            self._waits_until = loop.time() + limit.total_seconds()
            self._set_timer(loop)
            try:
                await self._event.wait()
            finally:
                self._waits_until = math.inf
        heard = frozenset(self._heard)
        self._heard.clear()
        self._event.clear()
        return heard

    def close(self) -> None:
        """Let go of what a wait has left behind."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None and self._timer.when() > self._waits_until:
            self.close()
        if self._timer is None:
            self._timer = loop.call_at(self._waits_until, self._look_at_time, loop)

    def _look_at_time(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        if self._waits_until <= loop.time():
            self._event.set()
        elif self._waits_until < math.inf:
            self._set_timer(loop)

    def wake(self, topic: Hashable) -> None:
        """Wake the watcher; waking it twice before it looks is waking it once."""
        self._heard.add(topic)
        self._event.set()


class WakeUps:
    """Who waits for what. Topics are any hashable values, such as `("job", job_id)`."""

    def __init__(self, max_watchers: int = 10_000) -> None:
        """Allow `max_watchers` at once."""
        self._max_watchers = max_watchers
        self._wakers: defaultdict[Hashable, set[Waker]] = defaultdict(set)
        self._count = 0

    @contextmanager
    def subscribe(self, *topics: Hashable) -> Iterator[Waker]:
        """Give a waker of these topics. Subscribe before the first look, so that nothing falls between.

        Raises:
            ResourceExhausted: there are too many watchers.
        """
        if self._count >= self._max_watchers:
            raise ResourceExhausted("Too many streams are open.", retry_after=timedelta(seconds=5))
        waker = Waker()
        self._count += 1
        for topic in topics:
            self._wakers[topic].add(waker)
        try:
            yield waker
        finally:
            waker.close()
            self._count -= 1
            for topic in topics:
                self._wakers[topic].discard(waker)
                if not self._wakers[topic]:
                    del self._wakers[topic]

    def notify(self, *topics: Hashable) -> None:
        """Wake everybody who watches one of these topics. Call it after the commit."""
        for topic in topics:
            for waker in self._wakers.get(topic, ()):
                waker.wake(topic)

    def watched(self, topic: Hashable) -> bool:
        """Tell whether anybody watches a topic, so that what nobody sees need not be made."""
        return topic in self._wakers
