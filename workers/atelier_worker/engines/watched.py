"""Asynchronous work in an engine's thread that ends as soon as its task is cancelled, wherever it waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")
# A connection that waits for its upstream is closed this soon after the job was cancelled.
LOOK_S = 0.05


def run_watched(work: Coroutine[Any, Any, T], check: Callable[[], None]) -> T:
    """Run `work` in an event loop of its own until it ends or `check` raises; return what it returns.

    Raises:
        Exception: whatever `check` raises, when `work` has been cancelled and has ended; or what `work` raises.
    """
    return asyncio.run(_watched(work, check))


async def _watched(work: Coroutine[Any, Any, T], check: Callable[[], None]) -> T:
    task = asyncio.create_task(work)
    try:
        while not task.done():
            check()
            await asyncio.wait({task}, timeout=LOOK_S)
    except BaseException:
        task.cancel()
        await asyncio.wait({task})
        raise
    return task.result()
