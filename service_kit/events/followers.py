"""Who follows whose events: woken when something is told, and by one look a second for all who follow.

The look asks once for the events that came after those that it asked for before, and wakes only who has not read them:
followers of other things rest, however many they are.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from service_kit.events.exchange import Exchange
from service_kit.events.wake_ups import Waker, WakeUps
from service_kit.identity import Owner
from service_kit.telemetry import get_logger

log = get_logger(__name__)

_TOPIC = "changed"
_LOOK_EVERY = timedelta(seconds=1)
# The look is what finds lost messages; this is for the day on which the look itself is broken.
_LOOK_ANYWAY = timedelta(seconds=30)

FindChanged = Callable[[Sequence[tuple[Owner, int]]], Awaitable[list[tuple[Owner, str, int]]]]


def owner_topic(owner: Owner) -> tuple[str, ...]:
    """Return the topic of those who follow an owner's events."""
    return ("owner", owner.tenant_id, owner.owner_id)


def subject_topic(subject_id: str) -> tuple[str, ...]:
    """Return the topic of those who follow one job, asset or item."""
    return ("subject", subject_id)


class Changes:
    """Tells the followers of all replicas that an owner has new events."""

    def __init__(self, wake_ups: WakeUps, exchange: Exchange) -> None:
        self.wake_ups = wake_ups
        self._exchange = exchange
        exchange.listen(_TOPIC, self._hear)

    def tell(self, owner: Owner, subject_id: str = "") -> None:
        """Wake those who follow an owner's events, or the subject; to be called after the commit."""
        self.wake_ups.notify(owner_topic(owner), subject_topic(subject_id))
        if not self._exchange.alone:
            text = f"{owner.tenant_id}\0{owner.owner_id}\0{subject_id}"
            self._exchange.publish(_TOPIC, text.encode(), key=text)

    def _hear(self, payload: bytes) -> None:
        tenant_id, owner_id, subject_id = payload.decode().split("\0")
        self.wake_ups.notify(owner_topic(Owner(tenant_id, owner_id)), subject_topic(subject_id))


class Follower:
    """One who reads an owner's events, or those of one subject, and has read up to `position`."""

    def __init__(self, waker: Waker, topic: tuple[str, ...], position: int) -> None:
        self.position = position
        self.topic = topic
        self._waker = waker

    async def wait(self) -> frozenset[Hashable]:
        """Wait until there may be more. Returns the topics that were told; none means: look at everything."""
        return await self._waker.wait(_LOOK_ANYWAY)

    def wake(self) -> None:
        """Let it look for events."""
        self._waker.wake(self.topic)


class Followers:
    """All who follow events of one service, in this process."""

    def __init__(self, wake_ups: WakeUps, find_changed: FindChanged, *, every: timedelta = _LOOK_EVERY) -> None:
        """Look with `find_changed`, which is EventLog.changed in a transaction that reads."""
        self._wake_ups = wake_ups
        self._find_changed = find_changed
        self._every_s = every.total_seconds()
        self._followers: defaultdict[Owner, dict[str | None, set[Follower]]] = defaultdict(lambda: defaultdict(set))
        self._looked_at: dict[Owner, int] = {}

    @contextmanager
    def follow(self, owner: Owner, position: int, *also: Hashable, subject_id: str | None = None) -> Iterator[Follower]:
        """Follow an owner's events, or those of one subject, from a position on, and whatever else is told of `also`.

        Whoever follows looks first, and then keeps `position` up to date.

        Raises:
            ResourceExhausted: there are too many watchers.
        """
        topic = owner_topic(owner) if subject_id is None else subject_topic(subject_id)
        with self._wake_ups.subscribe(topic, *also) as waker:
            follower = Follower(waker, topic, position)
            mine = self._followers[owner]
            mine[subject_id].add(follower)
            self._looked_at.setdefault(owner, position)
            try:
                yield follower
            finally:
                mine[subject_id].discard(follower)
                if not mine[subject_id]:
                    del mine[subject_id]
                if not mine:
                    del self._followers[owner], self._looked_at[owner]

    async def run(self) -> None:
        """Look each second, until cancelled."""
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self.look()
            except Exception as error:  # noqa: BLE001 - whatever it is, the database may be away
                log.warning("look_failed", error=repr(error))

    async def look(self) -> None:
        """Wake those who have not read everything there is for them. One query, and none while nobody follows."""
        if not self._looked_at:
            return
        since = [(owner, self._since(owner)) for owner in self._looked_at]
        for owner, subject_id, position in await self._find_changed(since):
            followers = self._followers.get(owner)
            if followers is None:
                continue
            self._looked_at[owner] = position
            for key in (None, subject_id):
                for follower in followers.get(key, ()):
                    if follower.position < position:
                        follower.wake()

    def _since(self, owner: Owner) -> int:
        """Return after which position to look. Followers of all that is an owner's have mostly read it already."""
        followers = self._followers[owner]
        if followers.keys() == {None}:
            return max(self._looked_at[owner], min(follower.position for follower in followers[None]))
        return self._looked_at[owner]
