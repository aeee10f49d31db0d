"""Submissions whose client was gone before it was answered: the same again, soon, is a retry that nobody marks.

Some clients repeat a request whose connection broke and do not say so. What the gateway knows of its own connections
tells such a repeat from two deliberate equal calls; which job it is the router knows, by the digest of the request.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from service_kit.clock import Clock

LASTS = timedelta(seconds=30)
"""How long a repeat is waited for: the longest that the clients let pass between two attempts."""

_CAPACITY = 10_000


class Unanswered:
    """What was left unanswered lately by this gateway, by a name of the caller and of what it sent."""

    def __init__(self, clock: Clock) -> None:
        """Remember nothing yet."""
        self._clock = clock
        self._left: OrderedDict[str, datetime] = OrderedDict()
        self._turns: dict[str, tuple[asyncio.Lock, int]] = {}

    def note(self, name: str) -> None:
        """Remember that nobody was there any more to be answered."""
        self._left[name] = self._clock.now()
        self._left.move_to_end(name)
        while len(self._left) > _CAPACITY:
            self._left.popitem(last=False)

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncGenerator[bool, None]:
        """Submit equal requests one after another; gives whether this one is a retry.

        A retry may come before the first attempt has been accepted.
        """
        lock, waiting = self._turns.get(name, (asyncio.Lock(), 0))
        self._turns[name] = (lock, waiting + 1)
        try:
            async with lock:
                left = self._left.pop(name, None)
                try:
                    yield left is not None and self._clock.now() - left < LASTS
                except BaseException:
                    if left is not None:
                        self._left[name] = left
                    raise
        finally:
            lock, waiting = self._turns[name]
            if waiting > 1:
                self._turns[name] = (lock, waiting - 1)
            else:
                del self._turns[name]
