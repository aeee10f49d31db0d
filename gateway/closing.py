"""The moment at which the gateway closes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Closing(asyncio.Event):
    """An event that also calls who waits for several things at once: a task that waits costs more than a stream."""

    def __init__(self) -> None:
        """The gateway is open."""
        super().__init__()
        self._calls: set[Callable[[], None]] = set()

    def set(self) -> None:
        """Tell everybody."""
        super().set()
        for call in tuple(self._calls):
            call()

    def tell(self, call: Callable[[], None]) -> None:
        """Call when the gateway closes; not when it is closing already."""
        self._calls.add(call)

    def forget(self, call: Callable[[], None]) -> None:
        """Do not call."""
        self._calls.discard(call)
