"""Large files that a worker on the same machine links: copied, measured and compared, and nothing else is ever read."""

from __future__ import annotations

import errno
import hashlib
import os
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import grpc
import pytest

from asset_service import spool
from asset_service.handover import LINK
from asset_service.lease_rules import LeaseRules
from atelier.asset.v1 import upload_service_pb2 as pb
from atelier_worker import shared_folder
from atelier_worker.patience import TransferFailed
from service_kit import file_copies
from service_kit.capabilities import LeaseClaims
from service_kit.errors import ErrorReason, FailedPrecondition
from service_kit.ids import new_id
from tests.asset_service.handing_over import (
    PICTURE,
    SECRET,
    announced,
    beside,
    finish_linked,
    is_held,
    names,
    no_messages,
    not_linked,
    offered,
    refused,
    uploaded,
)
from tests.asset_service.harness import Harness


@pytest.fixture(autouse=True)
def nothing_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("atelier_worker.whole_outputs.WHOLE_BYTES", 0)


@pytest.fixture
def lease(harness: Harness) -> LeaseClaims:
    return harness.lease(new_id(), max_bytes=len(PICTURE))


@pytest.fixture
def folder(harness: Harness) -> Path:
    return harness.service.settings.handover_dir


async def test_a_worker_with_the_same_folder_sends_no_bytes(
    harness: Harness, lease: LeaseClaims, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_messages(monkeypatch)
    file = tmp_path / "output.png"
    file.write_bytes(PICTURE)
    await uploaded(harness, lease, file, folder)
    assert names(folder) == []
    assert file.read_bytes() == PICTURE, "it is the worker's still"
    assert file.stat().st_nlink == 1


def test_worker_and_service_call_a_link_the_same() -> None:
    # Neither imports the other, so each has the name.
    assert shared_folder.LINK == LINK


async def test_what_is_linked_is_copied_and_nobody_reaches_the_copy(
    harness: Harness, lease: LeaseClaims, folder: Path, tmp_path: Path
) -> None:
    started = await announced(harness, lease)
    file = tmp_path / "output.png"
    file.write_bytes(PICTURE)
    beside(folder, started).hardlink_to(file)
    with file.open("r+b") as writer:
        finished = await finish_linked(harness, lease, started.upload_id)
        assert finished.media.sha256 == hashlib.sha256(PICTURE).hexdigest()
        writer.write(SECRET)
    assert names(folder) == []
    assert not is_held(started.handover_name)
    assert await finish_linked(harness, lease, started.upload_id) == finished, "safe to repeat"
    await harness.settle(lease.job_id, {0: finished.receipt})
    (asset,) = await harness.listed()
    (blob,) = [blob for blob in await harness.blobs() if blob.sha256 == asset.media.sha256]
    stored = harness.service.store.open_range(blob.bucket, blob.key, generation=blob.generation)
    assert b"".join([chunk async for chunk in stored]) == PICTURE


@pytest.mark.parametrize(
    "kind",
    ["symlink", "fifo", "folder", "nothing", "shorter", "longer", "sparse", "of another user", "where others enter"],
)
async def test_what_is_no_file_of_the_worker_is_not_taken_for_a_link(
    harness: Harness, lease: LeaseClaims, folder: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = await announced(harness, lease)
    place, secret = beside(folder, started), tmp_path / "secret"
    secret.write_bytes(PICTURE)
    if kind == "symlink":
        place.symlink_to(secret)
    elif kind == "fifo":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    elif kind in ("shorter", "longer"):
        place.write_bytes(PICTURE[:-1] if kind == "shorter" else PICTURE + b"1")
    elif kind == "sparse":
        place.touch()
        os.truncate(place, len(PICTURE))
    elif kind == "where others enter":
        place.hardlink_to(secret)
        place.parent.chmod(0o750)
    elif kind == "of another user":
        place.hardlink_to(secret)
        # The folder is ours, the file is not.
        users = chain([os.geteuid()], repeat(os.geteuid() + 1))
        monkeypatch.setattr(os, "geteuid", lambda: next(users))
    code, why = await not_linked(harness, lease, started.upload_id)
    wanted = grpc.StatusCode.INVALID_ARGUMENT if kind == "sparse" else grpc.StatusCode.FAILED_PRECONDITION
    assert code is wanted, why
    assert str(folder) not in why
    assert await not_linked(harness, lease, started.upload_id) != (grpc.StatusCode.OK, "")
    assert secret.read_bytes() == PICTURE
    assert list(await harness.blobs()) == []


async def test_a_file_that_shrinks_while_it_is_copied_is_not_taken(
    harness: Harness, lease: LeaseClaims, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = await announced(harness, lease)
    beside(folder, started).write_bytes(PICTURE)
    copy = file_copies.copy_bytes

    def shrinking(source: int, target: int, length: int, start: int) -> int:
        return copy(source, target, length - 1, start)

    monkeypatch.setattr(spool, "copy_bytes", shrinking)
    code, why = await not_linked(harness, lease, started.upload_id)
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "shorter" in why


async def test_a_linked_file_is_closed_though_nothing_can_be_written(
    harness: Harness, lease: LeaseClaims, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = await announced(harness, lease)
    link = beside(folder, started)
    link.write_bytes(PICTURE)

    def full(_: Path) -> int:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(spool, "_open", full)
    await not_linked(harness, lease, started.upload_id)
    assert not is_held(link.name)


@pytest.mark.parametrize("change", ["written into", "another", "shorter"])
async def test_a_file_that_changes_while_it_is_uploaded_is_no_output(
    harness: Harness, lease: LeaseClaims, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    file = tmp_path / "output.png"
    file.write_bytes(PICTURE)
    copy = file_copies.copy_bytes

    def copy_and_change(source: int, target: int, length: int, start: int) -> int:
        length = copy(source, target, length, start)
        if change == "written into":
            os.pwrite(source_of_writes, b"x", 0)
        elif change == "another":
            (tmp_path / "next.png").write_bytes(PICTURE)
            (tmp_path / "next.png").replace(file)
        else:
            os.truncate(file, len(PICTURE) - 1)
        return length

    monkeypatch.setattr(spool, "copy_bytes", copy_and_change)
    source_of_writes = os.open(file, os.O_WRONLY)
    try:
        with pytest.raises(TransferFailed, match="changed while it was uploaded"):
            await uploaded(harness, lease, file, folder)
    finally:
        os.close(source_of_writes)


async def test_what_is_written_in_the_tick_of_the_look_is_in_the_copy(
    harness: Harness, lease: LeaseClaims, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "output.png"
    file.write_bytes(bytes(len(PICTURE)))
    now = 1_000 * shared_folder.TICK_NS
    os.utime(file, ns=(now, now))

    def written_in_the_same_tick(seconds: float) -> None:
        assert seconds >= shared_folder.TICK_NS / 1e9
        file.write_bytes(PICTURE)
        os.utime(file, ns=(now, now))

    monkeypatch.setattr(shared_folder, "time_ns", lambda: now + shared_folder.TICK_NS - 1)
    monkeypatch.setattr(shared_folder, "sleep", written_in_the_same_tick)
    await uploaded(harness, lease, file, folder)


async def test_without_a_digest_bytes_come_as_a_link_or_not_at_all(
    harness: Harness, lease: LeaseClaims, folder: Path
) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="sha256"):
        await harness.uploads.StartUpload(
            pb.StartUploadRequest(asset_index=0, size_bytes=1), metadata=harness.as_worker(lease)
        )
    started = await announced(harness, lease)
    (folder / started.handover_name).write_bytes(PICTURE)
    assert await refused(harness, lease, started.upload_id) is grpc.StatusCode.FAILED_PRECONDITION
    with pytest.raises(grpc.aio.AioRpcError, match="no digest"):
        await harness.write(lease, started.upload_id, PICTURE)
    with pytest.raises(grpc.aio.AioRpcError, match="as a link"):
        await harness.finish(lease, started.upload_id)
    with_digest = await offered(harness, lease)
    assert with_digest.upload_id != started.upload_id
    assert (await not_linked(harness, lease, with_digest.upload_id))[0] is grpc.StatusCode.FAILED_PRECONDITION


async def test_after_a_try_that_broke_off_it_begins_anew(harness: Harness, lease: LeaseClaims, folder: Path) -> None:
    started = await announced(harness, lease)
    # As a process leaves it that dies while it copies; after a power cut only the size may be right.
    harness.service.spool.path(started.upload_id).write_bytes(bytes(len(PICTURE)))
    beside(folder, started).write_bytes(PICTURE)
    again = await announced(harness, lease)
    assert (again.upload_id, again.received_bytes) == (started.upload_id, 0)
    assert again.handover_name != started.handover_name
    assert names(folder) == [again.handover_name]
    beside(folder, again).write_bytes(PICTURE)
    assert (await finish_linked(harness, lease, again.upload_id)).media.sha256 == hashlib.sha256(PICTURE).hexdigest()


async def test_a_service_of_an_earlier_release_gets_a_digest(
    harness: Harness, lease: LeaseClaims, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = LeaseRules.check

    def wants_a_digest(rules: LeaseRules, *arguments: Any, linked: bool) -> None:
        check(rules, *arguments)

    no_messages(monkeypatch)
    monkeypatch.setattr(LeaseRules, "check", wants_a_digest)
    (tmp_path / "output.png").write_bytes(PICTURE)
    await uploaded(harness, lease, tmp_path / "output.png", folder)


async def test_when_the_link_is_of_no_use_the_bytes_are_sent(
    harness: Harness, lease: LeaseClaims, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(upload_id: str) -> int:
        raise FailedPrecondition("Another replica.", ErrorReason.INCOMPLETE_UPLOAD)

    monkeypatch.setattr(harness.service.handover, "take_link", gone)
    (tmp_path / "output.png").write_bytes(PICTURE)
    await uploaded(harness, lease, tmp_path / "output.png", folder)
    assert not [name for name in names(folder) if name.endswith(LINK)]
