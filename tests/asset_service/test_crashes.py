"""The process dies between two durable steps; after a restart all repeat: nothing is lost, doubled or left."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest

from atelier.asset.v1 import asset_pb2
from atelier.type.v1 import media_pb2
from service_kit import channels
from service_kit.clock import ManualClock, SystemClock
from service_kit.errors import NotFound
from service_kit.ids import asset_id, new_id
from tests.asset_service.harness import Callers, Harness, eventually, refusal, running
from tests.asset_service.pictures import encoded, png

PICTURE, LOSER, THUMB = png(60, 60), png(50, 50, seed=1), encoded("WEBP")


@asynccontextmanager
async def dying(data_dir: Path, point: str) -> AsyncIterator[tuple[Callers, asyncio.subprocess.Process]]:
    """Run the service in a process of its own that kills itself at a point."""
    environment = {
        **os.environ,
        "ATELIER_DATA_DIR": str(data_dir),
        "ATELIER_ASSET_LISTEN": "127.0.0.1:0",
        "ATELIER_LOG_FORMAT": "json",
        "ATELIER_CRASH_POINT": point,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "asset_service", env=environment, stderr=asyncio.subprocess.PIPE
    )
    try:
        channel = channels.connect(await _target(process))
        try:
            yield Callers(data_dir, SystemClock(), channel), process
        finally:
            await channel.close()
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def _target(process: asyncio.subprocess.Process) -> str:
    if process.stderr is None:
        raise ValueError("the log is not read")
    async with asyncio.timeout(30):
        async for line in process.stderr:
            entry = json.loads(line)
            if entry["event"] == "listening":
                return str(entry["target"])
    raise LookupError("the service ended before it listened")


async def deliver_and_settle(callers: Callers, job_id: str) -> None:
    """Do what a worker and the router do: a failed attempt, a good one with a thumbnail, the settlement."""
    await callers.send(callers.lease(job_id, fence=1), LOSER)
    lease = callers.lease(job_id, fence=2)
    output = await callers.send(lease, PICTURE)
    thumb = await callers.send(lease, THUMB, rendition=media_pb2.RENDITION_KIND_THUMB_256)
    receipt = (await callers.finish(lease, output, [thumb])).receipt
    settled = await callers.settle(job_id, {0: receipt})
    if list(settled.published) != [0]:
        raise ValueError("the output was not published")


@pytest.mark.parametrize(
    "point",
    [
        "asset.upload.started",
        "asset.upload.finished.blob",
        "asset.settle.before_commit",
        "asset.settle.committed",
    ],
)
async def test_an_output_is_published_once_whenever_the_service_dies(tmp_path: Path, point: str) -> None:
    job_id = new_id()
    async with dying(tmp_path, point) as (callers, process):
        with pytest.raises(grpc.aio.AioRpcError):
            await deliver_and_settle(callers, job_id)
        assert await process.wait() == -signal.SIGKILL

    async with running(tmp_path, ManualClock(datetime.now(UTC))) as harness:
        if point != "asset.settle.committed":
            assert await harness.listed() == []
            await deliver_and_settle(harness, job_id)
        else:
            assert list((await harness.settle(job_id, {})).published) == [0]
        [asset] = await harness.listed()
        assert asset.asset_id == asset_id(job_id, 0)
        assert len(asset.renditions) == 1
        await harness.service.expiry.look()
        assert {blob.sha256 for blob in await harness.blobs()} == {
            asset.media.sha256,
            asset.renditions[0].media.sha256,
        }
        assert len(await harness.blobs()) == 2
        assert await harness.service.spool.names() == []


# The first thing that is deleted is the upload that lost, the second the asset.
@pytest.mark.parametrize(
    "point",
    [
        "asset.remove.committed",
        "asset.remove.committed:2",
        "asset.remove.blob_deleted",
        "asset.remove.blob_deleted:2",
    ],
)
async def test_what_was_removed_is_gone_after_the_restart(tmp_path: Path, point: str) -> None:
    job_id = new_id()
    async with dying(tmp_path, point) as (callers, process):
        try:
            await deliver_and_settle(callers, job_id)
            await callers.discard(asset_id(job_id, 0))
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.UNAVAILABLE
        async with asyncio.timeout(20):
            assert await process.wait() == -signal.SIGKILL

    async with running(tmp_path, ManualClock(datetime.now(UTC))) as harness:
        await deliver_and_settle_again(harness, job_id)
        assert (await harness.discard(asset_id(job_id, 0))).state == asset_pb2.ASSET_STATE_REMOVED
        assert isinstance(await refusal(harness.get(asset_id(job_id, 0))), NotFound)

        async def all_gone() -> bool:
            return not await harness.blobs() and not await harness.service.spool.names()

        await eventually(all_gone)


async def deliver_and_settle_again(harness: Harness, job_id: str) -> None:
    """Repeat the settlement, which was committed before anything could be removed."""
    settled = await harness.settle(job_id, {})
    assert list(settled.published) == [0]


async def test_a_second_service_on_the_same_folder_is_refused_in_a_sentence(tmp_path: Path) -> None:
    async with running(tmp_path, ManualClock()):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "asset_service",
            env={**os.environ, "ATELIER_DATA_DIR": str(tmp_path), "ATELIER_ASSET_LISTEN": "127.0.0.1:0"},
            stderr=asyncio.subprocess.PIPE,
        )
        _, errors = await process.communicate()
    assert process.returncode == 2
    assert str(os.getpid()) in errors.decode()
    assert "Traceback" not in errors.decode()
