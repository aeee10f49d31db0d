"""Memory between the engines of one process: when one needs room on a device, the others are asked to free theirs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from atelier_worker.engine_client import EngineClient
from service_kit.telemetry import get_logger

# Freeing what is unused takes less than a second; an engine that is in the middle of something answers later or never.
GIVE_LIMIT_S = 10.0
_ASK_LIMIT_S = 60.0

log = get_logger(__name__)


class Neighbours:
    """The engines of one process."""

    def __init__(self, give_limit_s: float = GIVE_LIMIT_S) -> None:
        """Begin without engines; each has `give_limit_s` for its answer."""
        self._give_limit_s = give_limit_s
        self._engines: list[EngineClient] = []

    def join(self, engine: EngineClient) -> None:
        """Let an engine ask and be asked."""
        self._engines.append(engine)

        async def make_room(device: str, wanted_bytes: int) -> int:
            return await self.make_room(engine, device, wanted_bytes)

        engine.on_need_room = make_room

    def leave(self, engine: EngineClient) -> None:
        """Ask an engine no more."""
        with contextlib.suppress(ValueError):
            self._engines.remove(engine)

    async def make_room(self, asking: EngineClient, device: str, wanted_bytes: int) -> int:
        """Have the other engines free memory of a device, the longest idle first; return what they freed together.

        It ends when enough was freed, all were asked, or a minute has passed. Two engines that ask each other at once
        each wait for the other's deadline at most: an engine that does not answer in time has freed nothing.
        """
        freed = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ASK_LIMIT_S):
                for engine in self._in_order(asking, device):
                    if freed >= wanted_bytes:
                        break
                    freed += await engine.give_room(device, wanted_bytes - freed, self._give_limit_s)
        if freed:
            # Whoever waits for memory asks again and again; only what came of it is worth a line.
            log.info("room_made", device=device, wanted_bytes=wanted_bytes, freed_bytes=freed)
        return freed

    def _in_order(self, asking: EngineClient, device: str) -> Sequence[EngineClient]:
        """Return who may hold something there: by what was told last, or because a task runs that may have loaded."""
        others = [one for one in self._engines if one is not asking]
        holders = [one for one in others if one.tasks or any(model.device == device for model in one.loaded)]
        busy_last = float("inf")
        return sorted(holders, key=lambda one: busy_last if one.idle_since is None else one.idle_since)
