"""A whole Atelier whose bytes lie in Google Cloud Storage: generate, upload, list, look, save, download, remove."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import httpx
import pytest
from PIL import Image

from service_kit.blobs import LIBRARY_BUCKET, WORKSPACE_BUCKET, BlobStore, open_store
from tests.support.system import System, running_system

WITHIN_S = 20.0


@pytest.fixture
async def system(tmp_path: Path, gcs_url: str) -> AsyncIterator[System]:
    async with running_system(tmp_path, blobs__url=gcs_url) as running:
        yield running


@pytest.fixture
async def store(system: System) -> AsyncIterator[BlobStore]:
    opened = open_store(system.settings)
    yield opened
    await opened.close()


async def keys_in(store: BlobStore, bucket: str) -> list[str]:
    async with aclosing(store.list(bucket)) as found:
        return [info.key async for info in found]


async def empty(store: BlobStore, bucket: str) -> None:
    async with asyncio.timeout(WITHIN_S):
        while await keys_in(store, bucket):  # noqa: ASYNC110 - what removes bytes tells nobody
            await asyncio.sleep(0.05)


def a_picture() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "teal").save(file, "PNG")
    return file.getvalue()


async def look_at(store: BlobStore, url: str) -> bytes:
    """Return the bytes of a signed address, which Google itself serves, in part if that is asked for."""
    async with httpx.AsyncClient(trust_env=False) as http:
        sent_on = await http.get(url)
        assert sent_on.status_code == 307
        assert sent_on.headers["location"].startswith(f"{store.origin}/")
        assert "private, max-age=" in sent_on.headers["cache-control"]
        part = await http.get(url, headers={"range": "bytes=1-3"}, follow_redirects=True)
        assert (part.status_code, part.content) == (206, b"PNG")
        head = await http.head(url)
        assert (head.status_code, head.headers["content-type"]) == (200, "image/png")
        return (await http.get(url, follow_redirects=True)).content


async def test_a_picture_is_made_saved_and_fetched_and_nothing_stays(
    system: System, store: BlobStore, tmp_path: Path
) -> None:
    async with system.client() as client:
        job = await client.generate("a lantern", model="sdxl", format="image", quantity=2, quality="draft", steps=2)
        listed = list(await client.assets(job.job.job_id))
        assert sorted(asset.asset_id for asset in listed) == sorted(asset.asset_id for asset in job.assets)
        made = listed[0]
        content = await look_at(store, made.url)
        assert len(content) == made.media.size_bytes

        uploaded = await client.upload(a_picture(), "teal.png")
        assert (await client.download(uploaded, tmp_path / "back.png")).read_bytes() == a_picture()

        [saved, again] = [*await client.save(made.asset_id), *await client.save(made.asset_id)]
        assert saved.item is not None
        assert again.item is not None
        item = await client.get_item(saved.item.item_id)
        assert again.item.item_id == item.item_id
        assert (await client.download(item, tmp_path / "kept.png")).read_bytes() == content

        for asset in [*listed, uploaded]:
            await client.discard(asset.asset_id)
        await empty(store, WORKSPACE_BUCKET)
        assert (await client.download(item, tmp_path / "still.png")).read_bytes() == content
        assert await keys_in(store, LIBRARY_BUCKET)
        await client.delete_item(item.item_id)
