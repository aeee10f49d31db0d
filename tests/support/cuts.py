"""A link that breaks at chosen places: after so many bytes have gone towards the target."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from faults.ports import free_port
from faults.proxy import Link


class CutLink:
    """Forwards to a target, and breaks every connection when the bytes sent so far reach each of the places."""

    def __init__(self, host: str, port: int, places: list[int]) -> None:
        self.sent_bytes = 0
        self.cuts = 0
        self._places = sorted(places)
        self.link = Link("uploads", free_port(), [(host, port)], on_sent=self._sent)

    def _sent(self, size_bytes: int) -> None:
        self.sent_bytes += size_bytes
        if self._places and self.sent_bytes >= self._places[0]:
            del self._places[0]
            self.cuts += 1
            self.link.cut()


def places(seed: int, count: int, size_bytes: int) -> list[int]:
    """Return places within a file, the same for a seed."""
    return random.Random(seed).sample(range(1, size_bytes), count)


@asynccontextmanager
async def cut_link(target: str, where: list[int]) -> AsyncIterator[CutLink]:
    """Open a link to host:port that breaks at some places."""
    host, _, port = target.rpartition(":")
    link = CutLink(host, int(port), where)
    await link.link.start()
    try:
        yield link
    finally:
        await link.link.close()
