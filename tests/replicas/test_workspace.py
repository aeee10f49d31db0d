"""Two asset services on one database: what happens in a workspace at one is told at the other."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import asset_service.__main__
from atelier.asset.v1 import asset_service_pb2 as pb
from atelier.asset.v1 import asset_service_pb2_grpc, upload_service_pb2
from service_kit import settings as kit_settings
from service_kit.events.followers import Followers
from tests.router_service.support import WAIT_S, running_replicas
from tests.support.tiny_engine import png


async def test_an_upload_at_one_replica_is_told_to_who_watches_at_the_other(
    tmp_path: Path, migrated_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nobody_looks(_self: Followers) -> None:
        await asyncio.sleep(timedelta(hours=1).total_seconds())

    monkeypatch.setattr(Followers, "run", nobody_looks)
    flags = {"core.database_url": migrated_postgres_url}
    async with running_replicas(tmp_path, 1, **flags) as (router,), asyncio.timeout(WAIT_S):
        settings = kit_settings.for_tests(tmp_path, **flags)
        other = await asset_service.__main__.open_service(settings, router.stack, clock=router.clock)
        while other.exchange.alone:  # noqa: ASYNC110 - nothing tells it
            await asyncio.sleep(0.001)
        key = router.service.rings.read_key_file("admin.key").reveal()
        there = asset_service_pb2_grpc.AssetServiceStub(await router.channel_with(key, other.server.target))
        stream: Any = there.WatchAssets(pb.WatchAssetsRequest())
        assert (await stream.read()).HasField("snapshot")
        piece = upload_service_pb2.CreateUploadRequest(data=png(1), size_bytes=len(png(1)))
        uploaded = await router.uploads_of_admin.CreateUpload(iter([piece]))
        assert (await stream.read()).published.asset_id == uploaded.asset.asset_id
        stream.cancel()
