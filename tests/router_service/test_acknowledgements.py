"""Acknowledgements are written within a moment, also those that come while others are written, or after a failure."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from router_service.acknowledgements import Acknowledgements
from router_service.domain import LeaseRef
from service_kit.errors import Unavailable
from tests.router_service.support import WAIT_S

FIRST, SECOND = (LeaseRef(f"0197d2a4-6c1e-7b5a-9f30-2d8e41c7a60{number}", 0, 1) for number in (1, 2))


class Slow:
    """A storage that lets its test say when, and whether, a transaction goes on."""

    def __init__(self) -> None:
        self.written: set[LeaseRef] = set()
        self.begun: asyncio.Queue[None] = asyncio.Queue()
        self.go_on: asyncio.Queue[Exception | None] = asyncio.Queue()
        self.leases = self

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Slow]:
        self.begun.put_nowait(None)
        if (error := await self.go_on.get()) is not None:
            raise error
        yield self

    async def acknowledge(self, refs: Sequence[tuple[LeaseRef, str]]) -> None:
        self.written |= {ref for ref, _ in refs}


async def acknowledging(*ends: Exception | None) -> set[LeaseRef]:
    """Acknowledge one lease, and another while the first is written; the transactions end like this."""
    slow: Any = Slow()
    acknowledgements = Acknowledgements(slow)
    async with asyncio.timeout(WAIT_S):
        acknowledgements.note(FIRST, "s")
        await slow.begun.get()
        acknowledgements.note(SECOND, "s")
        for end in ends:
            slow.go_on.put_nowait(end)
        await acknowledgements.close()
    written: set[LeaseRef] = slow.written
    return written


async def test_what_comes_while_others_are_written_is_written_soon() -> None:
    assert await acknowledging(None, None) == {FIRST, SECOND}


async def test_what_could_not_be_written_is_written_again() -> None:
    slow: Any = Slow()
    acknowledgements = Acknowledgements(slow)
    async with asyncio.timeout(WAIT_S):
        acknowledgements.note(FIRST, "s")
        slow.go_on.put_nowait(Unavailable("The database cannot be reached at the moment; repeat."))
        slow.go_on.put_nowait(None)
        for _ in range(2):
            await slow.begun.get()
        await acknowledgements.close()
    assert slow.written == {FIRST}


async def test_who_ends_does_not_wait_for_a_database_that_is_away() -> None:
    assert await acknowledging(Unavailable("The database cannot be reached at the moment; repeat.")) == set()
