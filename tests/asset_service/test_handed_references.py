"""References that a worker on the same machine gets as files: written into one that it made, and into no other."""

from __future__ import annotations

import asyncio
import errno
import os
import threading
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest

from asset_service import handover as handover_module
from asset_service.handover import Handover
from atelier.asset.v1 import asset_pb2
from atelier.asset.v1 import upload_service_pb2 as pb
from atelier.type.v1 import media_pb2
from atelier_worker import uploads as worker_uploads
from atelier_worker.patience import Patience, TransferFailed
from atelier_worker.uploads import Transfers
from service_kit.blobs import local
from service_kit.capabilities import LeaseClaims
from service_kit.channels import connect
from service_kit.ids import new_id
from tests.asset_service.harness import Harness, grant
from tests.asset_service.pictures import png

PICTURE = png(1000, 800)
SECRET = b"nobody's business"
WAIT_S = 10.0


class Reference(NamedTuple):
    """An asset, and the lease of a worker that may read it."""

    asset: asset_pb2.Asset
    lease: LeaseClaims


@pytest.fixture
def folder(harness: Harness) -> Path:
    return harness.service.settings.handover_dir


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def is_open(file: int) -> bool:
    """Tell whether this process has a file with this number."""
    try:
        os.fstat(file)
    except OSError:
        return False
    return True


def is_held(path: Path) -> bool:
    """Tell whether this process has a file open."""
    return any(each.resolve() == path for each in Path("/proc/self/fd").iterdir())


@pytest.fixture
async def reference(harness: Harness) -> AsyncIterator[Reference]:
    finished = await harness.deliver(maker := harness.lease(new_id(), max_bytes=len(PICTURE)), PICTURE)
    await harness.settle(maker.job_id, {0: finished.receipt})
    (asset,) = await harness.listed()
    (held,) = (await harness.hold("save:reader", asset.asset_id)).held
    yield Reference(asset, harness.lease(new_id(), references=(grant(held),)))


async def read_by_worker(harness: Harness, reference: Reference, folder: Path | None, path: Path) -> None:
    channel = connect(harness.service.server.target)
    try:
        token = harness.capabilities.sign_lease(reference.lease)
        transfers = Transfers(channel, token, Patience(timedelta(seconds=1), 0.01), handover=folder)
        await transfers.read_reference(reference.asset.asset_id, reference.asset.media, path)
    finally:
        await channel.close()


async def answered(harness: Harness, reference: Reference, name: str) -> list[pb.ReadReferenceResponse]:
    request = pb.ReadReferenceRequest(asset_id=reference.asset.asset_id, handover_name=name)
    return [m async for m in harness.uploads.ReadReference(request, metadata=harness.as_worker(reference.lease))]


async def test_a_reference_comes_as_a_file_of_its_own(
    harness: Harness, reference: Reference, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_uploads, "_append", None)
    path = tmp_path / "reference.png"
    await read_by_worker(harness, reference, folder, path)
    assert path.read_bytes() == PICTURE
    assert names(folder) == []
    assert not is_held(path)
    path.write_bytes(SECRET)
    assert await harness.read_reference(reference.lease, reference.asset.asset_id) == PICTURE


async def test_from_another_disk_the_worker_copies_it(
    harness: Harness, reference: Reference, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(*_: Any) -> None:
        raise OSError(errno.EXDEV, "two disks")

    monkeypatch.setattr(Path, "replace", elsewhere)
    await read_by_worker(harness, reference, folder, tmp_path / "reference.png")
    assert (tmp_path / "reference.png").read_bytes() == PICTURE
    assert names(folder) == []


@pytest.mark.parametrize("why", ["no folder", "another folder", "no room"])
async def test_else_a_reference_comes_as_messages(
    harness: Harness, reference: Reference, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    if why == "no room":

        def full(*_: Any, **__: Any) -> int:
            raise OSError(errno.ENOSPC, "no room")

        monkeypatch.setattr(local, "copy_bytes", full)
    seen = {"no folder": None, "another folder": other}.get(why, folder)
    await read_by_worker(harness, reference, seen, tmp_path / "reference.png")
    assert (tmp_path / "reference.png").read_bytes() == PICTURE
    assert (names(folder), names(other)) == ([], [])


@pytest.mark.parametrize(
    "kind", ["symlink", "hard link", "fifo", "folder", "bytes", "no name", "elsewhere", "others enter"]
)
async def test_a_reference_is_written_into_an_empty_file_of_the_worker_alone(
    harness: Harness, reference: Reference, folder: Path, tmp_path: Path, kind: str
) -> None:
    name, other = "0" * 32, tmp_path / "other"
    place = folder / name
    other.write_bytes(b"" if kind in ("symlink", "hard link", "elsewhere") else SECRET)
    before = other.read_bytes()
    if kind == "symlink":
        place.symlink_to(other)
    elif kind == "hard link":
        place.hardlink_to(other)
    elif kind == "fifo":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    elif kind == "bytes":
        place.write_bytes(SECRET)
    elif kind == "others enter":
        place.touch()
        place.parent.chmod(0o770)
    elif kind == "elsewhere":
        name = "../other"
    messages = await answered(harness, reference, name)
    assert b"".join(message.data for message in messages) == PICTURE
    assert not any(message.handed_over_sha256 for message in messages)
    assert other.read_bytes() == before
    if kind == "bytes":
        assert place.read_bytes() == SECRET


async def test_a_reference_that_is_not_granted_or_gone_is_not_handed_over(
    harness: Harness, reference: Reference, folder: Path
) -> None:
    (folder / ("0" * 32)).touch()
    stranger = Reference(reference.asset, harness.lease(new_id()))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answered(harness, stranger, "0" * 32)
    assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
    for blob in await harness.blobs():
        await harness.service.store.delete(blob.bucket, blob.key, blob.generation)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await answered(harness, reference, "0" * 32)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert (folder / ("0" * 32)).read_bytes() == b""


async def test_another_blob_than_the_lease_names_is_refused(
    harness: Harness, reference: Reference, folder: Path, tmp_path: Path
) -> None:
    for change in ({"sha256": "0" * 64}, {"size_bytes": len(PICTURE) + 1}):
        asset = asset_pb2.Asset(asset_id=reference.asset.asset_id, media=reference.asset.media)
        asset.media.MergeFrom(media_pb2.Media(**change))
        with pytest.raises(TransferFailed, match="are not those it had"):
            await read_by_worker(harness, Reference(asset, reference.lease), folder, tmp_path / "reference.png")


async def test_a_file_that_is_opened_for_somebody_who_has_gone_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go_on = threading.Event(), threading.Event()
    opened: list[int] = []
    find = handover_module._open_empty

    def slow(path: Path) -> int | None:
        began.set()
        go_on.wait(10)
        opened.append(find(path) or -1)
        return opened[0]

    monkeypatch.setattr(handover_module, "_open_empty", slow)
    handover, name = Handover(tmp_path / "handover"), "0" * 32
    await handover.prepare()
    (tmp_path / "handover" / name).touch()
    opening = asyncio.create_task(handover.open_for(name))
    await asyncio.to_thread(began.wait, 10)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    go_on.set()
    async with asyncio.timeout(WAIT_S):
        while not opened or is_open(opened[0]):
            await asyncio.to_thread(time.monotonic)


@pytest.mark.parametrize("limit_bytes", [worker_uploads._READ_AGAIN_BYTES, 1])
async def test_a_file_whose_bytes_are_damaged_is_no_reference(
    harness: Harness,
    reference: Reference,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    limit_bytes: int,
) -> None:
    [blob] = await harness.blobs()
    data = harness.service.settings.blobs_dir / blob.bucket / f"{blob.key}.blob/data"
    data.write_bytes(bytes([PICTURE[0] ^ 1]) + PICTURE[1:])
    monkeypatch.setattr(worker_uploads, "_READ_AGAIN_BYTES", limit_bytes)
    path = tmp_path / "reference.png"
    if limit_bytes == 1:
        # A larger file is believed: `atelier sweep --verify` reads it.
        await read_by_worker(harness, reference, folder, path)
        return
    with pytest.raises(TransferFailed, match="are not those it had"):
        await read_by_worker(harness, reference, folder, path)
