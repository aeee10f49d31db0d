"""The event loop goes on while bytes are moved: its lag is measured during a transfer of a gigabyte."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from service_kit.blobs import BlobStore, open_store
from service_kit.settings import for_tests

BUCKET, OTHER = "workspace-temp", "user-library"
CHUNK = bytes(1 << 20)
# Generous: other processes may have the cores. Bytes that were moved on the loop would hold it for seconds.
LONGEST_LAG_S = 1.0
USUAL_LAG_S = 0.05


@asynccontextmanager
async def measured_lag() -> AsyncIterator[list[float]]:
    """Give a list that fills with how late the loop was, every 2 ms."""
    lags: list[float] = []

    async def tick() -> None:
        while True:
            begun = time.perf_counter()
            await asyncio.sleep(0.002)
            lags.append(time.perf_counter() - begun - 0.002)

    ticking = asyncio.create_task(tick())
    try:
        yield lags
    finally:
        ticking.cancel()
        await asyncio.wait([ticking])


async def transfer(store: BlobStore, count: int) -> list[float]:
    async with measured_lag() as lags:

        async def zeros() -> AsyncIterator[bytes]:
            for _ in range(count):
                yield CHUNK
            # However fast the disk is: a loop that wrote by itself would not have ticked at all.
            assert len(lags) > 5

        info = await store.put(BUCKET, "large", zeros(), content_type="video/mp4")
        received = 0
        async for piece in store.open_range(BUCKET, "large"):
            received += len(piece)
        copied = await store.copy((BUCKET, "large"), (OTHER, "large"))
        # pytest keeps folders of tests for a while; a gigabyte need not lie there.
        for each in (info, copied):
            assert await store.delete(each.bucket, each.key, each.generation)
    assert received == info.size_bytes == count << 20
    return sorted(lags)


# The emulator keeps everything in memory, and copies what it has at every part: there it is less.
@pytest.mark.parametrize(("url", "count"), [("local", 1024), ("gcs", 24)])
async def test_the_loop_goes_on_during_a_transfer(
    tmp_path: Path, url: str, count: int, request: pytest.FixtureRequest
) -> None:
    address = request.getfixturevalue("gcs_url") if url == "gcs" else ""
    store = open_store(for_tests(tmp_path, blobs__url=address))
    try:
        lags = await transfer(store, count)
    finally:
        await store.close()
    # A loop that stood still would also have ticked too rarely.
    assert len(lags) > 50
    assert lags[-1] < LONGEST_LAG_S
    assert lags[len(lags) // 2] < USUAL_LAG_S
