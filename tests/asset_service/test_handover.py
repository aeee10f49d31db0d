"""Files that a worker on the same machine hands over: taken as any other, and nothing else is ever read."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from asset_service.handover import LIFETIME, MOST, Handover
from atelier.asset.v1 import upload_service_pb2 as pb
from atelier_worker.uploads import WHOLE_BYTES, Patience, Transfers
from service_kit.capabilities import LeaseClaims
from service_kit.channels import connect
from service_kit.errors import FailedPrecondition
from service_kit.ids import new_id
from tests.asset_service.harness import Harness
from tests.asset_service.pictures import png

# More than goes with one message.
PICTURE = png(1000, 800)
assert len(PICTURE) > WHOLE_BYTES
SECRET = b"nobody's business"


@pytest.fixture
def lease(harness: Harness) -> LeaseClaims:
    return harness.lease(new_id(), max_bytes=len(PICTURE))


@pytest.fixture
def folder(harness: Harness) -> Path:
    return harness.service.settings.handover_dir


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def offered(harness: Harness, lease: LeaseClaims) -> pb.StartUploadResponse:
    """Begin an upload as a worker that would rather hand its file over."""
    request = pb.StartUploadRequest(
        asset_index=0, size_bytes=len(PICTURE), sha256=hashlib.sha256(PICTURE).hexdigest(), handover=True
    )
    return await harness.uploads.StartUpload(request, metadata=harness.as_worker(lease))


async def collect(harness: Harness, lease: LeaseClaims, upload_id: str) -> int:
    request = pb.CollectUploadRequest(upload_id=upload_id)
    return (await harness.uploads.CollectUpload(request, metadata=harness.as_worker(lease))).received_bytes


async def refused(harness: Harness, lease: LeaseClaims, upload_id: str) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await collect(harness, lease, upload_id)
    return caught.value.code()


async def uploaded(harness: Harness, lease: LeaseClaims, file: Path, folder: Path | None) -> None:
    """Upload a file as the worker does, and look at the asset."""
    channel = connect(harness.service.server.target)
    try:
        token = harness.capabilities.sign_lease(lease)
        transfers = Transfers(channel, token, Patience(timedelta(seconds=10), 0.01), handover=folder)
        receipt = await transfers.upload_output(0, file, {})
    finally:
        await channel.close()
    await harness.settle(lease.job_id, {0: receipt})
    (asset,) = await harness.listed()
    assert asset.media.sha256 == hashlib.sha256(PICTURE).hexdigest()


def no_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    async def write(*_: Any) -> int:
        raise AssertionError("the bytes came as messages")

    monkeypatch.setattr(Transfers, "_write", write)


async def test_a_worker_with_the_same_folder_sends_no_bytes(
    harness: Harness, lease: LeaseClaims, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_messages(monkeypatch)
    file = tmp_path / "output.png"
    file.write_bytes(PICTURE)
    await uploaded(harness, lease, file, folder)
    assert names(folder) == []
    assert file.read_bytes() == PICTURE, "it is the worker's still"


async def test_where_the_kernel_does_not_copy_between_two_disks_we_do(
    harness: Harness, lease: LeaseClaims, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(*_: Any) -> int:
        raise OSError(errno.EXDEV, "two disks")

    no_messages(monkeypatch)
    monkeypatch.setattr(os, "copy_file_range", elsewhere, raising=False)
    (tmp_path / "output.png").write_bytes(PICTURE)
    await uploaded(harness, lease, tmp_path / "output.png", folder)


async def test_a_worker_with_another_folder_sends_its_bytes(
    harness: Harness, lease: LeaseClaims, folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (tmp_path / "output.png").write_bytes(PICTURE)
    await uploaded(harness, lease, tmp_path / "output.png", other)
    assert list(other.iterdir()) == []


async def test_a_replica_that_offered_nothing_gets_the_bytes(
    harness: Harness, lease: LeaseClaims, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer = harness.service.handover.offer

    async def lost(upload_id: str) -> str:
        name = await offer(upload_id)
        await harness.service.handover.end(upload_id)
        (folder / name).touch()
        return name

    monkeypatch.setattr(harness.service.handover, "offer", lost)
    (tmp_path / "output.png").write_bytes(PICTURE)
    await uploaded(harness, lease, tmp_path / "output.png", folder)


@pytest.mark.parametrize("kind", ["symlink", "hard link", "fifo", "file"])
async def test_what_somebody_puts_in_the_place_of_the_file_is_never_read(
    harness: Harness, lease: LeaseClaims, folder: Path, tmp_path: Path, kind: str
) -> None:
    started = await offered(harness, lease)
    place, secret = folder / started.handover_name, tmp_path / "secret"
    secret.write_bytes(PICTURE)
    place.unlink()
    if kind == "symlink":
        place.symlink_to(secret)
    elif kind == "hard link":
        place.hardlink_to(secret)
    elif kind == "fifo":
        os.mkfifo(place)
    else:
        place.write_bytes(PICTURE)
    assert await refused(harness, lease, started.upload_id) is grpc.StatusCode.FAILED_PRECONDITION
    assert secret.read_bytes() == PICTURE
    assert (await offered(harness, lease)).received_bytes == 0


async def test_an_offer_is_for_its_upload_and_good_once(harness: Harness, lease: LeaseClaims, folder: Path) -> None:
    started = await offered(harness, lease)
    stranger = harness.lease(new_id())
    assert await refused(harness, stranger, started.upload_id) is grpc.StatusCode.NOT_FOUND
    (folder / started.handover_name).write_bytes(PICTURE[:-1])
    assert await refused(harness, lease, started.upload_id) is grpc.StatusCode.FAILED_PRECONDITION
    assert names(folder) == []

    again = await offered(harness, lease)
    (folder / again.handover_name).write_bytes(PICTURE)
    assert await collect(harness, lease, again.upload_id) == len(PICTURE)
    assert await refused(harness, lease, again.upload_id) is grpc.StatusCode.FAILED_PRECONDITION
    assert (await offered(harness, lease)).handover_name == "", "it has its bytes"


async def test_what_is_written_after_it_was_taken_changes_nothing(
    harness: Harness, lease: LeaseClaims, folder: Path
) -> None:
    started = await offered(harness, lease)
    with (folder / started.handover_name).open("r+b") as file:
        file.write(PICTURE)
        file.flush()
        await collect(harness, lease, started.upload_id)
        file.seek(0)
        file.write(SECRET)
    finished = await harness.finish(lease, started.upload_id)
    await harness.settle(lease.job_id, {0: finished.receipt})
    (asset,) = await harness.listed()
    assert asset.media.sha256 == hashlib.sha256(PICTURE).hexdigest()


async def test_other_bytes_than_announced_are_refused(harness: Harness, lease: LeaseClaims, folder: Path) -> None:
    started = await offered(harness, lease)
    (folder / started.handover_name).write_bytes(bytes(len(PICTURE)))
    await collect(harness, lease, started.upload_id)
    with pytest.raises(grpc.aio.AioRpcError, match="was announced"):
        await harness.finish(lease, started.upload_id)
    assert (await offered(harness, lease)).received_bytes == 0


async def test_offers_are_few_and_short(tmp_path: Path) -> None:
    now = 0.0
    handover = Handover(tmp_path / "handover", now=lambda: now)
    await handover.prepare()
    assert len({await handover.offer(str(number)) for number in range(MOST + 1)}) == MOST + 1
    with pytest.raises(FailedPrecondition):
        handover.take("0")
    os.close(handover.take("1"))
    now = LIFETIME.total_seconds() + 1
    await handover.offer("new")
    assert len(names(tmp_path / "handover")) == 1
    await handover.close()
    assert names(tmp_path / "handover") == []


async def test_the_loop_that_ends_things_ends_offers(
    harness: Harness, lease: LeaseClaims, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = await offered(harness, lease)
    (folder / "left").touch()
    os.utime(folder / "left", (0, 0))
    await harness.service.expiry.look()
    assert names(folder) == [started.handover_name]
    overdue = time.monotonic() + LIFETIME.total_seconds() + 1
    monkeypatch.setattr(harness.service.handover, "_now", lambda: overdue)
    await harness.service.expiry.look()
    assert names(folder) == []
    assert await refused(harness, lease, started.upload_id) is grpc.StatusCode.FAILED_PRECONDITION
    await asyncio.to_thread(folder.rmdir)
    await harness.service.expiry.look()


async def test_what_a_dead_process_left_goes_when_it_is_old(tmp_path: Path) -> None:
    (tmp_path / "old").touch()
    os.utime(tmp_path / "old", (0, 0))
    (tmp_path / "new").touch()
    await Handover(tmp_path).prepare()
    assert names(tmp_path) == ["new"]
