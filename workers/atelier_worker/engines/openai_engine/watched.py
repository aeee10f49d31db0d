"""Asynchronous work in an engine's thread that ends as soon as its task is cancelled, wherever it waits."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from atelier_worker.engine import Cancelled, Context

# A connection that waits for its upstream is closed this soon after the job was cancelled.
LOOK_S = 0.05


def run_watched(work: Coroutine[Any, Any, None], context: Context) -> None:
    """Run `work` in an event loop of its own until it ends or the task is cancelled.

    Raises:
        Cancelled: the task was cancelled; `work` has been cancelled and has ended.
        Exception: whatever `work` raises.
    """
    asyncio.run(_watched(work, context))


async def _watched(work: Coroutine[Any, Any, None], context: Context) -> None:
    task = asyncio.create_task(work)
    try:
        while not task.done():
            context.check_cancelled()
            await asyncio.wait({task}, timeout=LOOK_S)
    except Cancelled:
        task.cancel()
        await asyncio.wait({task})
        raise
    task.result()
