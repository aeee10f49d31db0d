"""No test waits for its services for ever: one that does fails by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

# A service that starts, or ends, on a machine that is busy with something else.
SERVICE_LIMIT_S = 60.0


@asynccontextmanager
async def closing_in_time(limit_s: float = SERVICE_LIMIT_S) -> AsyncIterator[AsyncExitStack]:
    """Give a stack whose parts end within a limit, or the test fails with TimeoutError."""
    stack = AsyncExitStack()
    try:
        yield stack
    finally:
        async with asyncio.timeout(limit_s):
            await stack.aclose()
