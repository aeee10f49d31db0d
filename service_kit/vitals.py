"""Whether what a service needs for itself works, its database and its blob store: asked every few seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta

from service_kit.health import HealthBoard
from service_kit.telemetry import get_logger

log = get_logger(__name__)

_INTERVAL = timedelta(seconds=5)
_LIMIT = timedelta(seconds=5)


class Vitals:
    """Keeps the health board true about what the service cannot do without."""

    def __init__(self, health: HealthBoard, checks: Mapping[str, Callable[[], Awaitable[object]]]) -> None:
        """Ask `checks`, by the name of the dependency: one that raises, or is not answered in 5 s, does not work."""
        self._health = health
        self._checks = dict(checks)

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(_INTERVAL.total_seconds())
            await self.look()

    async def look(self) -> None:
        """Look once."""
        await asyncio.gather(*(self._look_at(name, ask) for name, ask in self._checks.items()))

    async def _look_at(self, name: str, ask: Callable[[], Awaitable[object]]) -> None:
        try:
            async with asyncio.timeout(_LIMIT.total_seconds()):
                await ask()
        except Exception as error:  # noqa: BLE001 - whatever it is, the dependency does not work
            log.warning("dependency_failed", dependency=name, error=repr(error))
            self._health.set(name, False, type(error).__name__)
        else:
            self._health.set(name, True)
