"""How a worker on the same machine hands a file over, step by step, and whole as the worker does it."""

from __future__ import annotations

import errno
import hashlib
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from asset_service.handover import LINK
from atelier.asset.v1 import upload_service_pb2 as pb
from atelier_worker.patience import Patience
from atelier_worker.uploads import Transfers
from service_kit.capabilities import LeaseClaims
from service_kit.channels import connect
from tests.asset_service.harness import Harness
from tests.asset_service.pictures import png

PICTURE = png(1000, 800)
SECRET = b"nobody's business"


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


async def announced(harness: Harness, lease: LeaseClaims, size_bytes: int = len(PICTURE)) -> pb.StartUploadResponse:
    """Begin an upload as a worker that is going to link its file."""
    request = pb.StartUploadRequest(asset_index=0, size_bytes=size_bytes, handover=True)
    return await harness.uploads.StartUpload(request, metadata=harness.as_worker(lease))


async def finish_linked(harness: Harness, lease: LeaseClaims, upload_id: str) -> pb.FinishUploadResponse:
    request = pb.FinishUploadRequest(upload_id=upload_id, linked=True)
    return await harness.uploads.FinishUpload(request, metadata=harness.as_worker(lease))


async def not_linked(harness: Harness, lease: LeaseClaims, upload_id: str) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await finish_linked(harness, lease, upload_id)
    return caught.value.code(), caught.value.details() or ""


def beside(folder: Path, started: pb.StartUploadResponse) -> Path:
    return folder / (started.handover_name + LINK)


def is_held(name: str) -> bool:
    """Tell whether this process has a file of that name open, also after the name is gone."""
    return any(name in str(each.resolve()) for each in Path("/proc/self/fd").iterdir())


def open_below(folder: Path) -> list[Path]:
    """Return what this process has open of a folder."""
    return [each for each in Path("/proc/self/fd").iterdir() if each.resolve().is_relative_to(folder)]


def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def elsewhere(*_: Any) -> None:
        raise OSError(errno.EXDEV, "two disks")

    monkeypatch.setattr(Path, "hardlink_to", elsewhere)


def no_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    async def write(*_: Any) -> int:
        raise AssertionError("the bytes came as messages")

    monkeypatch.setattr(Transfers, "_write", write)
