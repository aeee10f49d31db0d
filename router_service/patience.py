"""How long workers that were not heard of are waited for, when it may have been us who could not hear."""

from __future__ import annotations

from datetime import timedelta

from service_kit.clock import Clock


class Patience:
    """Begins at the start, and anew after an outage: for the life of a lease nobody is believed lost.

    What expires is decided by the database's clock. This one only says whether it is time to look.
    """

    def __init__(self, clock: Clock, lease_ttl: timedelta) -> None:
        self._clock = clock
        self._lease_ttl_s = lease_ttl.total_seconds()
        self._until = 0.0
        self.begin()

    def begin(self) -> None:
        """Wait for the life of a lease from now on: heartbeats may have gone unheard."""
        self._until = self._clock.monotonic() + self._lease_ttl_s

    @property
    def is_over(self) -> bool:
        """Whether workers that were not heard of in time may be believed lost."""
        return self._clock.monotonic() >= self._until
