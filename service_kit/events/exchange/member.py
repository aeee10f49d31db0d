"""One replica's part in an exchange, whatever carries it: what waits to be sent, and who hears what arrives."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import count

from service_kit.telemetry import get_logger

log = get_logger(__name__)

MOST_MESSAGES = 10_000
MOST_BYTES = 1024 * 1024

Message = tuple[str, bytes]
Hear = Callable[[bytes], None]


class Pending:
    """Messages that wait to be sent: the newest, if there are too many."""

    def __init__(self, most_messages: int = MOST_MESSAGES, most_bytes: int = MOST_BYTES) -> None:
        self._most_messages = most_messages
        self._most_bytes = most_bytes
        self._messages: dict[tuple[str, str | int], Message] = {}
        self._numbers = count()
        self._bytes = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._messages)

    def add(self, topic: str, payload: bytes, key: str | None) -> None:
        """Add a message to the end. It takes the place of one of its topic that has the same key."""
        place = (topic, next(self._numbers) if key is None else key)
        earlier = self._messages.pop(place, None)
        if earlier is not None:
            self._bytes -= len(earlier[1])
        self._messages[place] = (topic, payload)
        self._bytes += len(payload)
        while len(self._messages) > self._most_messages or self._bytes > self._most_bytes:
            self._bytes -= len(self._messages.pop(next(iter(self._messages)))[1])
            self.dropped += 1

    def take(self) -> list[Message]:
        """Return everything, oldest first, and forget it."""
        taken = list(self._messages.values())
        self._messages.clear()
        self._bytes = 0
        if self.dropped:
            log.warning("exchange_overflowed", dropped=self.dropped)
            self.dropped = 0
        return taken


class Exchange(ABC):
    """The way to the other replicas of a service. While `run` runs, this replica takes part."""

    def __init__(self) -> None:
        self._pending = Pending()
        self._something = asyncio.Event()
        self._hearers: defaultdict[str, list[Hear]] = defaultdict(list)

    @property
    @abstractmethod
    def alone(self) -> bool:
        """Whether no other replica is known to take part, so that what is published reaches nobody."""

    @abstractmethod
    async def run(self) -> None:
        """Send and receive until cancelled."""

    def publish(self, topic: str, payload: bytes = b"", *, key: str | None = None) -> None:
        """Tell every other replica, soon. Returns at once and never fails; to be called after the commit.

        Args:
            topic: who is meant by it; at most 255 bytes.
            payload: what; at most 1 MiB, more is dropped.
            key: a message that has not been sent yet gives way to a later one of the same topic and key.
        """
        if self.alone:
            return
        if not self._pending:
            self._something.set()
        self._pending.add(topic, payload, key)

    def listen(self, topic: str, hear: Hear) -> None:
        """Call `hear` with the payload of each message of a topic that another replica publishes."""
        self._hearers[topic].append(hear)

    def _deliver(self, messages: Iterable[Message]) -> None:
        for topic, payload in messages:
            for hear in self._hearers.get(topic, ()):
                try:
                    hear(payload)
                except Exception:
                    # One that cannot be understood, from another release perhaps, must not stop the others.
                    log.exception("exchange_message_failed", topic=topic)
