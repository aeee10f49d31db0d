"""Asynchronous work in an engine's thread that ends as soon as its task is cancelled, wherever it waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from atelier_worker.engine import Context

T = TypeVar("T")
# A connection that waits for its upstream is closed this soon after the job was cancelled.
LOOK_S = 0.05
# A worker takes a task that is silent for minutes for one that hangs.
SAY_S = 30.0


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


def noticing(context: Context, phase: str, clock: Callable[[], float]) -> Callable[[], None]:
    """Return a check for `run_watched` that raises when the job was cancelled, and else says `phase` every half minute.

    For work that ends within a time of its own, known to be alive whatever it waits for. `clock` gives seconds.
    """
    said_at = clock()

    def check() -> None:
        nonlocal said_at
        context.check_cancelled()
        if clock() - said_at >= SAY_S:
            said_at = clock()
            context.progress(0, 1, phase=phase)

    return check
