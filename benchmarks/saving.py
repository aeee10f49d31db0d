"""Saving to the library: a thousand assets of 8 MB, and how many of their bytes pass through a service; by hand beside.

The assets lie in a local directory, all links to one file, so that the disk holds them; each is a blob of its own to
the services. By hand means what a client would do that had only downloads and uploads: it reads and writes every byte.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from asset_service.domain import Asset, AssetSource, AssetState, Blob, Media
from benchmarks.figures import Figure
from service_kit.blobs import LIBRARY_BUCKET, WORKSPACE_BUCKET
from service_kit.ids import new_id
from tests.library_service.house import ADA, House

ASSETS = 1000
SIZE_BYTES = 8 << 20
BY_HAND = 50


def measure(folder: Path, assets: int = ASSETS) -> list[Figure]:
    """Save assets, and copy some by hand.

    Raises:
        RuntimeError: not every asset was saved.
    """
    (folder / "saving").mkdir()
    return asyncio.run(_measure(folder / "saving", assets))


async def _measure(folder: Path, count: int) -> list[Figure]:
    async with AsyncExitStack() as stack:
        house = House(folder, stack)
        await house.start()
        asset_ids = await _make_assets(house, count)
        passed = _count_bytes(house.library.store) + _count_bytes(house.asset.store)
        began = time.perf_counter()
        async with house.as_(ADA) as ada:
            results = await ada.save(*asset_ids)
        seconds = time.perf_counter() - began
        if not all(result.HasField("item") for result in results):
            raise RuntimeError("not every asset was saved")
        through = sum(each["bytes"] for each in passed)
        by_hand = await _by_hand(house) * count / BY_HAND
    spoken = f"{count:,} assets of 8 MB in {seconds:.1f} s; by hand {by_hand:.0f} s, from {BY_HAND}"
    return [
        Figure(f"save to library: bytes through Atelier ({spoken})", float(through), "B", limit=0.0),
        Figure("save to library: time to that by hand", seconds / by_hand, "x", limit=1.0),
    ]


async def _make_assets(house: House, count: int) -> list[str]:
    store = house.asset.store
    first = await store.put_bytes(
        WORKSPACE_BUCKET, "default/ada/first", os.urandom(SIZE_BYTES), content_type="image/png"
    )
    media = Media("image/png", SIZE_BYTES, first.sha256, 2048, 2048)
    assets = []
    for number in range(count):
        key = f"default/ada/uploads/{number}"
        info = await store.copy((WORKSPACE_BUCKET, first.key), (WORKSPACE_BUCKET, key))
        now = house.clock.now()
        assets.append(
            Asset(
                asset_id=new_id(),
                owner=ADA,
                job_id=None,
                asset_index=0,
                source=AssetSource.UPLOAD,
                state=AssetState.AVAILABLE,
                media=media,
                blob=Blob(WORKSPACE_BUCKET, key, info.generation),
                renditions=(),
                provenance=b"",
                filename="",
                saved_item_id="",
                saved_version=0,
                created_at=now,
                expires_at=now + house.settings.asset.asset_expiry,
                version=1,
            )
        )
    async with house.asset.storage.write() as tx:
        await tx.assets.add_many(assets)
    return [asset.asset_id for asset in assets]


def _count_bytes(store: Any) -> list[dict[str, int]]:
    """Have a store count the bytes that it gives to, and takes from, the process that uses it."""
    passed = {"bytes": 0}
    read, put = store.open_range, store.put_bytes

    async def open_range(*arguments: Any, **options: Any) -> Any:
        async for piece in read(*arguments, **options):
            passed["bytes"] += len(piece)
            yield piece

    async def put_bytes(bucket: str, key: str, data: bytes, **options: Any) -> Any:
        passed["bytes"] += len(data)
        return await put(bucket, key, data, **options)

    async def put_stream(*_: Any, **__: Any) -> Any:
        raise RuntimeError("nothing is written as a stream when an asset is saved")

    store.open_range, store.put_bytes, store.put = open_range, put_bytes, put_stream
    return [passed]


async def _by_hand(house: House) -> float:
    """Download and upload some; the copies go again. Returns the seconds that it took."""
    from service_kit.blobs.local import LocalBlobStore

    store = LocalBlobStore(house.settings.blobs_dir)
    began = time.perf_counter()
    for number in range(BY_HAND):
        source = store.open_range(WORKSPACE_BUCKET, f"default/ada/uploads/{number}")
        info = await store.put(LIBRARY_BUCKET, f"default/ada/by-hand-{number}", source, content_type="image/png")
        await store.delete(info.bucket, info.key, info.generation)
    return time.perf_counter() - began
