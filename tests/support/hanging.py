"""What a test that is broken off waits for: a plugin that has one that runs into its limit fail with that."""

from __future__ import annotations

import asyncio
import gc
import inspect
import signal
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

_DEEPEST = 40
_NAMED = 3
# What was broken off may hang once more while its loop is closed.
_AGAIN_AFTER_S = 20.0


@pytest.hookimpl(optionalhook=True)
def pytest_timeout_set_timer(item: Any, settings: Any) -> bool:
    """Break a test or its fixtures off in time, and say in which line each task waits. Main thread only."""

    def break_off(_signal: int, _frame: object) -> None:
        __tracebackhide__ = True
        pytest.fail("\n".join([f"It took longer than {settings.timeout:g} s. What each task waits for:", *_tasks()]))

    def cancel() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)

    item.cancel_timeout = cancel
    signal.signal(signal.SIGALRM, break_off)
    signal.setitimer(signal.ITIMER_REAL, settings.timeout, _AGAIN_AFTER_S)
    return True


def _tasks() -> Iterator[str]:
    alike: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for task in [thing for thing in gc.get_objects() if issubclass(type(thing), asyncio.Task) and not thing.done()]:
        alike[tuple(_waits(task))].append(f"{task.get_name()} (told {task.cancelling()} times to end)")
    # A server of gRPC has a task for each of its methods.
    for waits, names in alike.items():
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        yield ", ".join(names[:_NAMED]) + more
        yield from (f"    {line}" for line in waits)


def _waits(task: asyncio.Task[Any]) -> Iterator[str]:
    """Follow what is awaited, from the task's own coroutine inwards."""
    waiting: Any = task.get_coro()
    for _ in range(_DEEPEST):
        frame, inner = _look_into(waiting)
        if frame is None:
            break
        yield f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}"
        waiting = inner
    yield type(waiting).__name__


def _look_into(waiting: object) -> tuple[Any, object]:
    if type(waiting).__name__ in ("async_generator_asend", "async_generator_athrow"):
        # It does not say of which generator it is a step.
        waiting = next(filter(inspect.isasyncgen, gc.get_referents(waiting)), waiting)
    for kind in ("cr", "ag", "gi"):
        if hasattr(waiting, f"{kind}_frame"):
            inner = getattr(waiting, "gi_yieldfrom" if kind == "gi" else f"{kind}_await", None)
            return getattr(waiting, f"{kind}_frame"), inner
    return None, None
