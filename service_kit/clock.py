"""Where the time comes from, and how it is written: UTC, microseconds, RFC 3339 with `Z`."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """What tells the time. Logic takes one, so that tests can move it."""

    def now(self) -> datetime:
        """Return the time of day, aware, in UTC."""

    def monotonic(self) -> float:
        """Return seconds since some fixed moment; never goes back."""


class SystemClock:
    """The clock of this machine."""

    def now(self) -> datetime:
        """Return the time of day, aware, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return seconds since some fixed moment; never goes back."""
        return time.monotonic()


class ManualClock:
    """A clock that stands still until a test advances it."""

    def __init__(self, start: datetime | None = None) -> None:
        self._now = start or datetime(2026, 1, 1, tzinfo=UTC)
        self._monotonic = 0.0

    def now(self) -> datetime:
        """Return the time that the test has set."""
        return self._now

    def monotonic(self) -> float:
        """Return the seconds that the test has let pass."""
        return self._monotonic

    def advance(self, by: timedelta) -> None:
        """Let time pass. Raises ValueError for a negative duration."""
        if by < timedelta(0):
            raise ValueError("time does not go back")
        self._now += by
        self._monotonic += by.total_seconds()


def rfc3339(moment: datetime) -> str:
    """Return `2026-01-31T12:00:00.000001Z`. Raises ValueError for a naive datetime."""
    if moment.tzinfo is None:
        raise ValueError("a time without a zone cannot be written")
    # Not strftime: its %Y writes the year 999 with three digits.
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def parse_rfc3339(text: str) -> datetime:
    """Return the moment in UTC. Raises ValueError for a text without a zone or of another shape."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"a time needs a zone, such as the Z in 2026-01-31T12:00:00Z; got {text!r}")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"a time must lie in the years 1..9999 of UTC; got {text!r}") from None
