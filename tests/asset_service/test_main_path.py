"""From an upload to an asset that its owner sees."""

from __future__ import annotations

from pathlib import Path

from asset_service.storage.tables import metadata
from atelier.asset.v1 import asset_pb2
from atelier.type.v1 import generation_pb2, media_pb2
from service_kit.database import Database
from service_kit.ids import asset_id, new_id
from service_kit.migrate import schema_differences
from tests.asset_service.harness import ANN, Harness
from tests.asset_service.pictures import encoded, png


async def test_an_output_is_seen_after_its_settlement_and_not_before(harness: Harness) -> None:
    job_id = new_id()
    lease = harness.lease(job_id)
    picture = png(40, 30)
    finished = await harness.deliver(lease, picture)
    assert await harness.listed() == []

    settled = await harness.settle(job_id, {0: finished.receipt})

    assert (list(settled.published), list(settled.lost)) == ([0], [])
    [asset] = await harness.listed()
    assert asset.asset_id == asset_id(job_id, 0)
    assert asset.job_id == job_id
    assert asset.source == asset_pb2.ASSET_SOURCE_JOB
    assert asset.state == asset_pb2.ASSET_STATE_AVAILABLE
    assert asset.format == generation_pb2.FORMAT_IMAGE
    assert (asset.media.content_type, asset.media.size_bytes) == ("image/png", len(picture))
    assert (asset.media.width, asset.media.height, asset.media.duration_ms) == (40, 30, 0)
    assert asset.provenance.prompt == "a lighthouse"
    assert (asset.expires_at.ToDatetime() - asset.created_at.ToDatetime()).days == 7
    bucket, key, generation = harness.fetch(asset.url)
    stored = b"".join([chunk async for chunk in harness.service.store.open_range(bucket, key, generation=generation)])
    assert stored == picture


async def test_renditions_are_published_with_their_output(harness: Harness) -> None:
    job_id = new_id()
    lease = harness.lease(job_id)
    thumb = encoded("WEBP", 16, 12)
    output = await harness.send(lease, png())
    rendition = await harness.send(lease, thumb, rendition=media_pb2.RENDITION_KIND_THUMB_256)
    finished = await harness.finish(lease, output, [rendition])
    await harness.settle(job_id, {0: finished.receipt})

    [asset] = await harness.listed(ANN)
    [found] = asset.renditions
    assert found.kind == media_pb2.RENDITION_KIND_THUMB_256
    assert (found.media.content_type, found.media.width, found.media.height) == ("image/webp", 16, 12)
    assert harness.fetch(found.url)[1] != harness.fetch(asset.url)[1]
    assert found.url_expires_at == asset.url_expires_at


async def test_the_migrations_make_the_tables(tmp_path: Path) -> None:
    db = Database(f"sqlite+aiosqlite:///{tmp_path / 'empty.sqlite3'}")
    try:
        assert await schema_differences(db, "asset_service.storage.migrations", metadata) == []
    finally:
        await db.close()
