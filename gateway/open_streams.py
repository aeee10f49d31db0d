"""The event streams that are open at this gateway: how many an owner may have, pings for all, and their common end."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Protocol

from gateway.backends import Metadata
from gateway.sse import PING
from service_kit.errors import ErrorReason, FieldProblem, PermissionDenied, ResourceExhausted, Unauthenticated
from service_kit.identity import AUTHORIZATION, ON_BEHALF_OF, IdentityVerifier, Owner, parse_on_behalf_of

_RETRY_AFTER = timedelta(seconds=10)
_LOOKS = 5
"""How often within the interval of pings it is looked for who needs one."""


class Stream(Protocol):
    """A stream, as it is kept alive and ended."""

    written_at: float

    @property
    def idle(self) -> bool:
        """Whether all was written."""

    def offer(self, content: bytes) -> None:
        """Write a frame."""

    def finish(self) -> None:
        """End the stream."""


class OpenStreams:
    """Counts the streams of owners, and looks after those that others fill. One task for all."""

    def __init__(self, verifier: IdentityVerifier, most_per_owner: int, closing: asyncio.Event) -> None:
        """Let every owner have `most_per_owner` streams, 0: any number. All end when `closing` is set."""
        self._verifier = verifier
        self._most = most_per_owner
        self._closing = closing
        self._of_owner: Counter[Owner] = Counter()
        self._streams: set[Stream] = set()
        self._ping_s = 0.0
        self._ticking: asyncio.Task[None] | None = None

    def take(self, entries: Metadata) -> Owner | None:
        """Count a stream of the owner that calls with `entries` are about.

        Returns:
            The owner, for `give`; None where an identity is not good: the service says so itself.

        Raises:
            ResourceExhausted: `limit_reached`; names the limit.
        """
        found = dict(entries)
        try:
            caller = self._verifier.verify(found.get(AUTHORIZATION, "").removeprefix("Bearer "))
            said = found.get(ON_BEHALF_OF)
            if said is not None:
                caller = caller.acting_for(parse_on_behalf_of(said))
        except (Unauthenticated, PermissionDenied):
            return None
        if self._most and self._of_owner[caller.owner] >= self._most:
            raise ResourceExhausted(
                f"The limit event_streams_per_owner of this owner is {self._most}, at each gateway: close a stream, or "
                "let several readers share one.",
                ErrorReason.LIMIT_REACHED,
                fields=[FieldProblem("event_streams_per_owner", f"is limited to {self._most} for this owner")],
                retry_after=_RETRY_AFTER,
            )
        self._of_owner[caller.owner] += 1
        return caller.owner

    def give(self, owner: Owner | None) -> None:
        """Count a stream no more."""
        if owner is None:
            return
        self._of_owner[owner] -= 1
        if not self._of_owner[owner]:
            del self._of_owner[owner]

    def add(self, stream: Stream, ping_interval: timedelta) -> None:
        """Keep a stream alive with pings, and end it with the others."""
        self._streams.add(stream)
        self._ping_s = ping_interval.total_seconds()
        if self._ticking is None:
            self._ticking = asyncio.create_task(self._tick(), name="event-streams")

    def remove(self, stream: Stream) -> None:
        """Look after a stream no more."""
        self._streams.discard(stream)
        if not self._streams and self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None

    async def _tick(self) -> None:
        now = asyncio.get_running_loop().time
        while True:
            pause_s = self._ping_s / _LOOKS
            try:
                async with asyncio.timeout(pause_s):
                    await self._closing.wait()
                break
            except TimeoutError:
                # Whoever would be silent for too long before the next look gets a ping in this one.
                due = now() + pause_s - self._ping_s
            for stream in tuple(self._streams):
                if stream.idle and stream.written_at <= due:
                    stream.offer(PING)
        for stream in tuple(self._streams):
            stream.finish()
        self._ticking = None
