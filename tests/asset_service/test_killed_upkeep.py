"""The service is killed while it copies an item, makes renditions, sweeps or erases: it goes on after a restart."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from atelier.asset.v1 import asset_pb2
from atelier.asset.v1 import asset_service_pb2 as pb
from service_kit.blobs import WORKSPACE_BUCKET
from service_kit.blobs.local import LocalBlobStore
from service_kit.clock import ManualClock
from service_kit.errors import ErrorReason, FailedPrecondition
from service_kit.identity import KeyKind
from service_kit.ids import new_id
from service_kit.sweeping import sweep_all
from tests.asset_service.harness import ANN, BOB, Callers, Harness, eventually, refusal, running
from tests.asset_service.pictures import png
from tests.asset_service.test_actions import copied, item
from tests.asset_service.test_crashes import deliver_and_settle, dying

# Longer than any upload or rendition may take, shorter than assets live.
LATER = timedelta(days=2)


@asynccontextmanager
async def restarted(data_dir: Path) -> AsyncIterator[Harness]:
    """Run the service again. In the end all that is left over must go by itself, and a sweep must find nothing."""
    async with running(data_dir, ManualClock(datetime.now(UTC))) as harness:
        yield harness
        harness.clock.advance(LATER)
        await harness.service.expiry.look()
        assert await sweep_all(harness.service.sweep.page, dry_run=True) == []
        async with harness.service.storage.read() as tx:
            assert await tx.uploads.deleting("", 9) == []


async def killed(process: asyncio.subprocess.Process) -> bool:
    async with asyncio.timeout(20):
        return await process.wait() == -signal.SIGKILL


@pytest.mark.parametrize("step", ["started", "copied", "before_commit"])
async def test_a_copy_of_an_item_is_there_once_or_not_at_all(tmp_path: Path, step: str) -> None:
    async with running(tmp_path, ManualClock(datetime.now(UTC))) as harness:
        request = await item(harness)
    async with dying(tmp_path, f"asset.copy_item.{step}") as (callers, process):
        with pytest.raises(grpc.aio.AioRpcError):
            await callers.control.CopyItem(request, metadata=callers.as_router)
        assert await killed(process)

    async with restarted(tmp_path) as harness:
        assert await harness.listed() == []
        assert len(await harness.blobs()) == (0 if step == "started" else 1)
        asset = await copied(harness, request)
        assert await harness.listed() == [asset]
    async with restarted(tmp_path) as harness:
        assert [blob.key for blob in await harness.blobs()] == [harness.fetch(asset.url)[1]]


@pytest.mark.parametrize("step", ["planned", "written"])
async def test_renditions_are_made_after_all_and_each_once(tmp_path: Path, step: str) -> None:
    async with dying(tmp_path, f"asset.renditions.{step}") as (callers, process):
        asset = await callers.bring(png(600, 400))
        assert await killed(process)

    async with restarted(tmp_path) as harness:
        assert (await harness.get(asset.asset_id)).rendition_state == asset_pb2.RENDITION_STATE_PENDING
        assert len(await harness.blobs()) == (1 if step == "planned" else 3)
        # The task belongs to whoever died for as long as it may take.
        assert await harness.service.renditions.work() == 0
        harness.clock.advance(timedelta(hours=1))
        assert await harness.service.renditions.work() == 1
        assert (await harness.get(asset.asset_id)).rendition_state == asset_pb2.RENDITION_STATE_READY
    async with restarted(tmp_path) as harness:
        assert len(await harness.blobs()) == 3


async def erase(callers: Callers) -> pb.EraseOwnerResponse:
    request = pb.EraseOwnerRequest(owner_id=ANN.owner_id)
    reply: pb.EraseOwnerResponse = await callers.assets.EraseOwner(
        request, metadata=callers.as_user(BOB, KeyKind.ADMIN)
    )
    return reply


async def test_an_erasure_that_broke_off_takes_nothing_more_and_goes_on(tmp_path: Path) -> None:
    async with dying(tmp_path, "asset.erase.marked") as (callers, process):
        await deliver_and_settle(callers, new_id())
        with pytest.raises(grpc.aio.AioRpcError):
            await erase(callers)
        assert await killed(process)

    async with restarted(tmp_path) as harness:
        [asset] = await harness.listed()
        late = await refusal(harness.discard(asset.asset_id))
        assert (type(late), late.reason) == (FailedPrecondition, ErrorReason.OWNER_ERASED)

        async def is_done() -> bool:
            return (await erase(harness)).done

        await eventually(is_done)
        assert await harness.blobs() == []
        async with harness.service.storage.read() as tx:
            assert await tx.erased.count_rows(ANN) == 0


async def test_what_a_sweep_was_about_to_delete_goes_after_the_restart(tmp_path: Path) -> None:
    async with dying(tmp_path, "asset.sweep.committed") as (callers, process):
        stray = f"default/ann/uploads/{new_id()}"
        store = LocalBlobStore(tmp_path / "blobs")
        await store.put_bytes(WORKSPACE_BUCKET, stray, b"stray", content_type="image/png")
        with pytest.raises(grpc.aio.AioRpcError):
            await callers.assets.SweepBlobs(pb.SweepBlobsRequest(), metadata=callers.as_user(BOB, KeyKind.ADMIN))
        assert await killed(process)
        # Its row says so, and its bytes are still there.
        assert await store.stat(WORKSPACE_BUCKET, stray) is not None

    async with restarted(tmp_path) as harness:

        async def is_gone() -> bool:
            return not await harness.blobs()

        await eventually(is_gone)
