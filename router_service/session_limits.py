"""How much of the router one worker may use: messages a second, sessions of a key, and how soon it may come again.

A worker pays for what it says in units, out of a bucket that fills slowly. Each lease brings units of its own, more
than it takes to say all about it, so that a fast worker is never held up. Everything here is in the memory of one
replica, is bounded, and goes by the monotonic clock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

from service_kit.errors import ResourceExhausted

# The largest message: a bundle of previews, 1 MiB of them, with everything else that a worker of ours puts beside it.
MOST_MESSAGE_BYTES = 2 << 20

# A small message costs one unit, about 0.1 ms of a core. Thirty outputs that show two previews a second each cost 300.
UNITS_PER_SECOND = 1000.0
MOST_UNITS = 10_000.0
BYTES_PER_UNIT = 16 << 10
# What the database has to be asked for: 200 at once, then 20 a second. A heartbeat each ten seconds is far below.
DATABASE_UNITS = 50.0
# A named lease is one comparison in a statement.
NAMED_LEASE_UNITS = 0.25
# Credits, first steps and last words that come with every lease.
UNITS_OF_A_LEASE = 20.0

# A worker connects again after a restart, a lost network, or a router that went down: ten times in a row, then every
# other second. That is for each worker and not for a key, which is often that of all workers.
_HELLOS = (0.5, 10.0)
_RETRY_AFTER = timedelta(seconds=5)
# So many workers are remembered; the one that was silent longest is forgotten first.
_MOST_REMEMBERED = 10_000

Monotonic = Callable[[], float]
_T = TypeVar("_T")


class TokenBucket:
    """Holds at most `most` units, filled at `per_second`; full at first."""

    def __init__(self, per_second: float, most: float, monotonic: Monotonic) -> None:
        self._per_second = per_second
        self._most = most
        self._monotonic = monotonic
        self._units = most
        self._filled_at = monotonic()

    def take(self, units: float) -> bool:
        """Take units out. Returns False, and takes nothing, when there are not enough."""
        now = self._monotonic()
        self._units = min(self._units + (now - self._filled_at) * self._per_second, self._most)
        self._filled_at = now
        if units > self._units:
            return False
        self._units -= units
        return True

    def give(self, units: float) -> None:
        """Put units in, no more than it holds."""
        self._units = min(self._units + units, self._most)


class Allowance:
    """What one session may say."""

    def __init__(self, monotonic: Monotonic) -> None:
        self._bucket = TokenBucket(UNITS_PER_SECOND, MOST_UNITS, monotonic)

    def spend(self, *, size_bytes: int, extra: float = 0.0) -> None:
        """Pay for a message of this size, and `extra` units for what it makes the router do.

        Raises:
            ResourceExhausted: it is too large, or the worker says more than anybody asked for.
        """
        check_size(size_bytes)
        if not self._bucket.take(1.0 + size_bytes / BYTES_PER_UNIT + extra):
            raise ResourceExhausted(
                "The worker says more than the router takes: at most "
                f"{UNITS_PER_SECOND:.0f} messages a second, {UNITS_PER_SECOND / DATABASE_UNITS:.0f} of them heartbeats "
                "or about leases that it does not hold. "
                f"Connect again in {_RETRY_AFTER.total_seconds():.0f} seconds, and say less.",
                retry_after=_RETRY_AFTER,
            )

    def earn(self) -> None:
        """Note that a lease was given, about which the worker has something to say."""
        self._bucket.give(UNITS_OF_A_LEASE)


def check_size(size_bytes: int) -> None:
    """Raise ResourceExhausted for a message of a worker that is too large."""
    if size_bytes > MOST_MESSAGE_BYTES:
        raise ResourceExhausted(
            f"A message of a worker has at most {MOST_MESSAGE_BYTES} bytes, got {size_bytes}.",
            retry_after=_RETRY_AFTER,
        )


class Door:
    """Lets workers in: so many sessions of a key at a time, and a worker that was sent away not before its time."""

    def __init__(self, monotonic: Monotonic, *, sessions_per_key: int) -> None:
        self._monotonic = monotonic
        self._sessions_per_key = sessions_per_key
        self._open: dict[str, int] = {}
        self._hellos: OrderedDict[str, TokenBucket] = OrderedDict()
        self._not_before: OrderedDict[str, float] = OrderedDict()

    @contextmanager
    def opened(self, key_id: str) -> Iterator[None]:
        """Count a stream of a key while it is open, also before its hello.

        Raises:
            ResourceExhausted: the key has as many as it may have.
        """
        count = self._open.get(key_id, 0)
        if count >= self._sessions_per_key:
            raise ResourceExhausted(
                f"The workers of one key have at most {self._sessions_per_key} sessions with a router at a time "
                "(router.max_sessions_per_key); give some of them a key of their own.",
                retry_after=_RETRY_AFTER,
            )
        self._open[key_id] = count + 1
        try:
            yield
        finally:
            self._open[key_id] -= 1
            if not self._open[key_id]:
                del self._open[key_id]

    def let_in(self, holder: str) -> None:
        """Let a worker begin a session.

        Raises:
            ResourceExhausted: it was sent away a moment ago, or begins one session after another.
        """
        wait_s = self._not_before.get(holder, 0.0) - self._monotonic()
        if wait_s > 0:
            raise ResourceExhausted(
                f"The worker was sent away for saying too much: connect again in {wait_s:.1f} seconds.",
                retry_after=timedelta(seconds=wait_s),
            )
        bucket = self._hellos.pop(holder, None) or TokenBucket(*_HELLOS, self._monotonic)
        _remember(self._hellos, holder, bucket)
        if not bucket.take(1.0):
            raise ResourceExhausted(
                f"The worker begins more than {_HELLOS[1]:.0f} sessions in a row: connect again in "
                f"{_RETRY_AFTER.total_seconds():.0f} seconds.",
                retry_after=_RETRY_AFTER,
            )

    def send_away(self, holder: str) -> None:
        """Keep a worker out for as long as it was told to wait."""
        self._not_before.pop(holder, None)
        _remember(self._not_before, holder, self._monotonic() + _RETRY_AFTER.total_seconds())


def _remember(memory: OrderedDict[str, _T], holder: str, what: _T) -> None:
    memory[holder] = what
    if len(memory) > _MOST_REMEMBERED:
        memory.popitem(last=False)
