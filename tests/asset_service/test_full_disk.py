"""A full disk: whoever writes is told to come again, nothing is seen half, all goes on when there is room."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc
import pytest

from service_kit.clock import ManualClock
from service_kit.errors import AtelierError, ResourceExhausted, Unavailable
from service_kit.ids import new_id
from tests.asset_service.harness import Harness, refusal, running
from tests.asset_service.pictures import png
from tests.asset_service.test_small_outputs import file, upload

SIZE_BYTES = 16 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a small disk."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "tmpfs", str(folder)]
    if not Path("/bin/mount").exists() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can only be mounted on Linux, by root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
async def on_small_disk(small_disk: Path, clock: ManualClock) -> AsyncIterator[Harness]:
    """Run the service with all that it has on the small disk."""
    async with running(small_disk, clock) as harness:
        await harness.publish()
        yield harness


class Ballast:
    """What fills the disk, but for some bytes."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "ballast"

    def leave(self, free_bytes: int) -> None:
        """Fill the disk."""
        with self._file.open("wb", buffering=0) as ballast:
            left = os.statvfs(self._file.parent).f_bavail * os.statvfs(self._file.parent).f_frsize - free_bytes
            while left > 0:
                left -= ballast.write(b"\0" * min(left, 1 << 20))

    def drop(self) -> None:
        """Make room."""
        self._file.unlink()


def picture(seed: int = 0) -> bytes:
    """Return a picture of noise, which does not shrink: some 370 kB."""
    return png(350, 350, seed=seed)


def check_told_to_come_again(error: AtelierError) -> None:
    """Check that an error says so: by its code, in a sentence, without a path."""
    assert isinstance(error, Unavailable | ResourceExhausted), error
    assert error.message.endswith(".")
    assert "/" not in error.message


@pytest.mark.parametrize("free_bytes", [150_000, 0])
async def test_a_full_disk_loses_nothing_and_says_so(on_small_disk: Harness, small_disk: Path, free_bytes: int) -> None:
    harness, ballast = on_small_disk, Ballast(small_disk)
    job_id = new_id()
    lease = harness.lease(job_id)
    begun = await harness.start(lease, picture(), 1)
    before = await harness.listed()
    blobs = await harness.blobs()

    ballast.leave(free_bytes)
    check_told_to_come_again(await refusal(upload(harness, lease, file(picture()))))
    check_told_to_come_again(await refusal(harness.write(lease, begun.upload_id, picture())))
    check_told_to_come_again(await refusal(harness.bring(picture())))
    assert await harness.blobs() == blobs
    assert await harness.listed() == before

    ballast.drop()
    reply = await upload(harness, lease, file(picture()))
    receipts = {0: reply.receipt, 1: (await harness.deliver(lease, picture(), 1)).receipt}
    assert list((await harness.settle(job_id, receipts)).published) == [0, 1]
    await harness.bring(picture())
    await harness.service.expiry.look()
    assert len(await harness.blobs()) == len(blobs) + 3
    assert await harness.service.spool.names() == []
    assert not list((small_disk / "blobs" / "workspace-temp" / ".tmp").iterdir())


async def test_a_job_is_settled_when_there_is_room_again(on_small_disk: Harness, small_disk: Path) -> None:
    harness, ballast = on_small_disk, Ballast(small_disk)
    receipts: dict[str, str] = {}
    for seed in range(3):
        job_id = new_id()
        receipts[job_id] = (await harness.deliver(harness.lease(job_id), png(seed=seed))).receipt
    ballast.leave(0)
    for job_id, receipt in receipts.items():
        try:
            await harness.settle(job_id, {0: receipt})
        except grpc.aio.AioRpcError as error:
            check_told_to_come_again(await refusal(_raise(error)))
            break
    ballast.drop()
    for job_id, receipt in receipts.items():
        assert list((await harness.settle(job_id, {0: receipt})).published) == [0]
    assert len(await harness.listed()) == 4


async def _raise(error: grpc.aio.AioRpcError) -> None:
    raise error
