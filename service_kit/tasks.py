"""Background work of a process: every loop has a name, survives a failed round, and ends when its owner stops."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from service_kit.telemetry import get_logger

log = get_logger(__name__)

_PAUSE_S = 1.0


class BackgroundTasks:
    """Owns loops. Start them after everything they use is there; stop them before any of that goes."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, name: str, loop: Callable[[], Awaitable[None]]) -> None:
        """Run a loop until `stop`. When it raises, the fault is logged and it is started again after a second."""
        self._tasks[name] = asyncio.create_task(_keep_running(name, loop), name=name)

    async def stop(self) -> None:
        """Cancel every loop and wait until it has ended."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()

    async def stop_one(self, name: str) -> None:
        """Cancel one loop and wait until it has ended. Raises KeyError when there is none of that name."""
        task = self._tasks.pop(name)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _keep_running(name: str, loop: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await loop()
        except Exception:
            log.exception("background_task_failed", task=name)
        else:
            log.warning("background_task_ended", task=name)
        await asyncio.sleep(_PAUSE_S)
