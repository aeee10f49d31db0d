"""No test waits for ever: one that does fails by itself, and says in which line it waited."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

# pytest's own limit is above this, and ends the whole run.
TEST_LIMIT_S = 150.0
# A service that starts, or ends, on a machine that is busy with something else.
SERVICE_LIMIT_S = 60.0

Test = Callable[..., Coroutine[Any, Any, None]]


def limited(test: Test, limit_s: float = TEST_LIMIT_S) -> Test:
    """Return a test that fails with TimeoutError instead of waiting longer."""

    @functools.wraps(test)
    async def run(*args: Any, **given: Any) -> None:
        async with asyncio.timeout(limit_s):
            await test(*args, **given)

    return run


@asynccontextmanager
async def closing_in_time(limit_s: float = SERVICE_LIMIT_S) -> AsyncIterator[AsyncExitStack]:
    """Give a stack whose parts end within a limit, or the test fails with TimeoutError."""
    stack = AsyncExitStack()
    try:
        yield stack
    finally:
        async with asyncio.timeout(limit_s):
            await stack.aclose()
