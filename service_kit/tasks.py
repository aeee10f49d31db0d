"""Background work of a process: every loop has a name, survives a failed round, and ends when its owner stops."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from service_kit.telemetry import get_logger

log = get_logger(__name__)

_PAUSE_S = 1.0
# Libraries swallow a cancellation that comes while they wait with `asyncio.wait_for`: then one is not enough.
_CANCEL_AGAIN_S = 2.0
_END_LIMIT_S = 8.0
_MOST_DESCRIBED = 100


class BackgroundTasks:
    """Owns loops. Start them after everything they use is there; stop them before any of that goes."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, name: str, loop: Callable[[], Awaitable[None]]) -> None:
        """Run a loop until `stop`. When it raises, the fault is logged and it is started again after a second."""
        self._tasks[name] = asyncio.create_task(_keep_running(name, loop), name=name)

    async def stop(self) -> None:
        """Cancel every loop and wait until it has ended, for 8 s at most."""
        await end(self._tasks.values())
        self._tasks.clear()

    async def stop_one(self, name: str) -> None:
        """Cancel one loop and wait until it has ended. Raises KeyError when there is none of that name."""
        await end([self._tasks.pop(name)])


async def beside_each_other(*loops: Callable[[], Awaitable[None]]) -> None:
    """Run loops until one ends or fails, or until cancelled; then end the others.

    A task group would cancel each but once, however often its owner asks.
    """
    tasks = [asyncio.create_task(_awaited(loop), name=_name(loop)) for loop in loops]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end(tasks)
    for task in tasks:
        if task.done() and not task.cancelled():
            task.result()


async def end(tasks: Collection[asyncio.Task[Any]], limit_s: float = _END_LIMIT_S) -> None:
    """Cancel tasks, again where that does not help, and wait for them. What has not ended in time is logged and left.

    A caller that is cancelled meanwhile waits all the same. What the tasks ended with is not raised.
    """
    now = asyncio.get_running_loop().time
    until = now() + limit_s
    tasks = tuple(tasks)  # a set of its owner forgets them as they end
    running, interrupted = {task for task in tasks if not task.done()}, False
    while running and now() < until:
        for task in running:
            task.cancel()
        try:
            _, running = await asyncio.wait(running, timeout=min(_CANCEL_AGAIN_S, until - now()))
        except asyncio.CancelledError:
            interrupted = True
            running = {task for task in running if not task.done()}
    if running:
        log.error("tasks_do_not_end", limit_s=limit_s, tasks=[described(task) for task in running])
    for task in tasks:
        if task.done() and not task.cancelled():
            # Asked for, so that nobody complains that it was not.
            task.exception()
    if interrupted:
        raise asyncio.CancelledError


async def in_time(work: Awaitable[Any], limit_s: float, what: str) -> bool:
    """Wait for the end of something, no longer than a limit. Returns whether it ended; raises what it raised.

    What has not ended is cancelled and logged, and is not waited for any more: `asyncio.timeout` would, and for ever.
    """
    # A task of its own: what `gather` returns names nothing, and ends before what it gathers does.
    task = asyncio.create_task(_result_of(work))
    try:
        await asyncio.wait([task], timeout=limit_s)
    except asyncio.CancelledError:
        await end([task], limit_s)
        raise
    if task.done():
        task.result()
        return True
    log.error("end_takes_too_long", what=what, limit_s=limit_s, tasks=_all_described())
    task.cancel()
    task.add_done_callback(_heard)
    return False


async def woken(event: asyncio.Event, within_s: float) -> bool:
    """Wait for an event, no longer than a time. Returns whether it came.

    Not `asyncio.wait_for`: before Python 3.12 that swallows a cancellation which comes together with the event.
    """
    try:
        async with asyncio.timeout(within_s):
            return await event.wait()
    except TimeoutError:
        return False


def described(task: asyncio.Task[Any]) -> str:
    """Return the name of a task and the functions in which it waits, the innermost last."""
    names: list[str] = []
    waiting: Any = task.get_coro()
    while waiting is not None and len(names) < 20:
        names.append(getattr(waiting, "__qualname__", type(waiting).__name__))
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "ag_await", None)
    return f"{task.get_name()}: {' > '.join(names)}"


def _all_described() -> list[str]:
    # gRPC's server has hundreds of tasks that wait for calls.
    all_tasks = map(described, asyncio.all_tasks())
    return [text for text in all_tasks if "_request_registered_call" not in text][:_MOST_DESCRIBED]


def _heard(task: asyncio.Future[Any]) -> None:
    if not task.cancelled():
        task.exception()


def _name(loop: Callable[..., object]) -> str:
    return str(getattr(getattr(loop, "func", loop), "__qualname__", "loop"))


async def _result_of(work: Awaitable[Any]) -> None:
    await work


async def _awaited(loop: Callable[[], Awaitable[None]]) -> None:
    await loop()


async def _keep_running(name: str, loop: Callable[[], Awaitable[None]]) -> None:
    task = asyncio.current_task()
    while True:
        try:
            await loop()
        except Exception:
            log.exception("background_task_failed", task=name)
        else:
            log.warning("background_task_ended", task=name)
        if task is not None and task.cancelling():
            # Something in it has turned the cancellation into a failure.
            raise asyncio.CancelledError
        await asyncio.sleep(_PAUSE_S)
