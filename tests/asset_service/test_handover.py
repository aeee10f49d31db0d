"""Files that a worker on the same machine writes where the service has offered one: taken as any other."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import time
from pathlib import Path
from typing import Any

import grpc
import pytest

from asset_service import handover as handover_module
from asset_service.handover import LIFETIME, LINK, MOST, MOST_OF_A_JOB, Handover
from service_kit.capabilities import LeaseClaims
from service_kit.errors import FailedPrecondition
from service_kit.ids import new_id
from tests.asset_service.handing_over import (
    PICTURE,
    SECRET,
    collect,
    names,
    no_links,
    no_messages,
    offered,
    open_below,
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


async def test_a_worker_on_another_disk_sends_no_bytes_either(
    harness: Harness, lease: LeaseClaims, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_messages(monkeypatch)
    no_links(monkeypatch)
    file = tmp_path / "output.png"
    file.write_bytes(PICTURE)
    await uploaded(harness, lease, file, folder)


async def test_where_the_kernel_does_not_copy_between_two_disks_we_do(
    harness: Harness, lease: LeaseClaims, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def elsewhere(*_: Any) -> int:
        raise OSError(errno.EXDEV, "two disks")

    no_messages(monkeypatch)
    monkeypatch.setattr(os, "copy_file_range", elsewhere, raising=False)
    no_links(monkeypatch)
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

    async def lost(upload_id: str, job_id: str) -> str:
        name = await offer(upload_id, job_id)
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
    assert len({await handover.offer(str(number), "job") for number in range(MOST_OF_A_JOB + 1)}) == MOST_OF_A_JOB + 1
    with pytest.raises(FailedPrecondition):
        handover.take("0")
    os.close(handover.take("1"))
    now = LIFETIME.total_seconds() + 1
    await handover.offer("new", "job")
    assert len(names(tmp_path / "handover")) == 1
    await handover.close()
    assert names(tmp_path / "handover") == []


async def test_who_asks_for_many_ends_the_offers_of_nobody_else(tmp_path: Path) -> None:
    handover = Handover(tmp_path / "handover")
    await handover.prepare()
    theirs = await handover.offer("theirs", "quiet")
    for number in range(2 * MOST):
        assert await handover.offer(str(number), "greedy")
    for number in range(MOST):
        await handover.offer(f"{number} of many", f"job {number}")
    assert await handover.offer("late", "another") == "", "there are too many"
    assert len(names(tmp_path / "handover")) == MOST
    os.close(handover.take("theirs"))
    assert theirs
    assert await handover.offer("late", "another"), "and now there is room"
    await handover.close()


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
    (tmp_path / ("new" + LINK)).touch()
    (tmp_path / ("gone" + LINK)).touch()
    await Handover(tmp_path).prepare()
    assert names(tmp_path) == ["new", "new" + LINK]


async def test_a_folder_goes_when_it_is_empty_and_is_told_once_when_it_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(handover_module.log, "warning", lambda event, name, why: told.append(name))
    for name in ("empty" + LINK, "full" + LINK, "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "something").touch()
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / ("empty" + LINK) / "something").unlink()
    (tmp_path / "outside").symlink_to(tmp_path.parent)
    os.utime(tmp_path / "outside", (0, 0), follow_symlinks=False)
    handover = Handover(tmp_path)
    await handover.prepare()
    await handover.clear()
    assert names(tmp_path) == ["a", "full" + LINK]
    assert told == ["a", "full" + LINK]
    (tmp_path / "a" / "something").unlink()
    os.utime(tmp_path / "a", (0, 0))
    await handover.clear()
    assert names(tmp_path) == ["full" + LINK]


@pytest.mark.parametrize("kind", ["fifo", "folder"])
async def test_what_has_no_bytes_is_not_even_opened(tmp_path: Path, kind: str) -> None:
    """Of a pipe, or a folder, nobody learns by its size alone that it is no file."""
    handover = Handover(tmp_path)
    name = "0" * 32
    for place in (tmp_path / ((await handover.offer("u", "job")) + LINK), tmp_path / name):
        if kind == "fifo":
            os.mkfifo(place)
        else:
            place.mkdir()
    with pytest.raises(FailedPrecondition):
        handover.take_link("u")
    if kind == "fifo":
        reader = os.open(tmp_path / name, os.O_RDONLY | os.O_NONBLOCK)
        assert await handover.open_for(name) is None
        os.close(reader)
    assert open_below(tmp_path) == []
