"""What the router's health depends on by itself: its database, without which it does not serve."""

from __future__ import annotations

import asyncio

from router_service.storage import Storage
from service_kit.health import HealthBoard

_EVERY_S = 5.0


class Vitals:
    """Looks at the database from time to time."""

    def __init__(self, health: HealthBoard, storage: Storage) -> None:
        self._health = health
        self._storage = storage

    async def run(self) -> None:
        """Look every five seconds, until cancelled."""
        while True:
            await self.check()
            await asyncio.sleep(_EVERY_S)

    async def check(self) -> None:
        """Look once."""
        answers = await self._storage.answers()
        self._health.set("database", answers, "" if answers else "the database does not answer")
