"""The database's time of day without a query: what it said last, and what has passed since."""

from __future__ import annotations

from datetime import datetime, timedelta

from service_kit.clock import Clock
from service_kit.database import Database


class DatabaseClock:
    """Tells whether tokens and signatures have expired.

    A step of this machine's clock, forwards or back, must not end what somebody still holds: between two looks time
    passes by the monotonic clock, which nobody sets. Where the database has no clock of its own (SQLite, and a clock
    that a test moves), it is the clock that the database reads.
    """

    def __init__(self, db: Database) -> None:
        """Tell this machine's time until the first look."""
        self._db = db
        self._clock: Clock = db.clock
        self._said: tuple[datetime, float] | None = None

    async def look(self) -> None:
        """Ask the database. Raises what a read raises; the time goes on by what it said before."""
        if not self._db.has_own_clock:
            return
        async with self._db.read() as tx:
            self._said = (await self._db.now(tx), self._clock.monotonic())

    def now(self) -> datetime:
        """Return the time of day, aware, in UTC."""
        if self._said is None:
            return self._clock.now()
        moment, at = self._said
        return moment + timedelta(seconds=self._clock.monotonic() - at)

    def monotonic(self) -> float:
        """Return seconds since some fixed moment; never goes back."""
        return self._clock.monotonic()
