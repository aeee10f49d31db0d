"""Files made to do harm, against a service in a process of its own: refused by name, nothing kept, little memory."""

from __future__ import annotations

import os
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from service_kit import channels
from service_kit.clock import SystemClock
from service_kit.errors import InvalidArgument
from service_kit.ids import asset_id, new_id
from tests.asset_service.harness import Callers, Harness, eventually, refusal
from tests.asset_service.pictures import encoded, mp4, png
from tests.support.hostile_files import HostileFile, hostile_files
from tests.support.processes import READY, Processes

MOST_GROWTH_BYTES = 64 << 20
MANY = 1 << 20


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii")
    return [int(word) for word in text.split()]


def memory(pid: int, name: str) -> int:
    """Return a figure of a process's memory in bytes: `VmRSS` now, `VmHWM` the most since the last reset."""
    match = re.search(rf"^{name}:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text("utf-8"), re.MULTILINE)
    if match is None:
        raise LookupError(name)
    return int(match[1]) * 1024


def forget_peak(pid: int) -> None:
    """Let `VmHWM` of a process begin anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", "ascii")


def open_uploads(data_dir: Path) -> int:
    """Return how many rows of uploads there are."""
    with closing(sqlite3.connect(data_dir / "asset" / "asset.sqlite3")) as db:
        return int(db.execute("SELECT count(*) FROM uploads").fetchone()[0])


def blobs(data_dir: Path) -> list[Path]:
    """Return all files of the bucket, drafts too, though folders go while we look."""
    return [Path(folder, name) for folder, _, names in os.walk(data_dir / "blobs") for name in names]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the memory of a process is read from /proc")
async def test_hostile_files_are_refused_by_name_and_leave_nothing(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    service = await processes.start("asset_service")
    channel = channels.connect(processes.asset_target)
    data_dir = tmp_path / "data"
    try:
        await channels.wait_ready(channel, READY)
        callers = Callers(data_dir, SystemClock(), channel)
        for good in (png(), encoded("WEBP"), encoded("GIF"), encoded("JPEG"), mp4(tmp_path)):
            kept = await callers.bring(good)
            await callers.discard(kept.asset_id)
        watched = [service.pid, *children(service.pid)]
        before = {pid: memory(pid, "VmRSS") for pid in watched}
        for pid in watched:
            forget_peak(pid)
        tried = [await _refused(callers, file) for file in hostile_files(tmp_path)]
        assert len(tried) >= 25
        assert watched == [service.pid, *children(service.pid)], "a file killed the process that measures"
        grown = {pid: memory(pid, "VmHWM") - before[pid] for pid in watched}
        assert max(grown.values()) <= MOST_GROWTH_BYTES, grown
        assert not await callers.listed()
        await eventually(lambda: _nothing_is_left(data_dir))
    finally:
        await channel.close()
        await processes.stop_all()


async def _refused(callers: Callers, file: HostileFile) -> str:
    error = await refusal(callers.bring(file.data, piece=1 << 20, filename=file.name, content_type=file.content_type))
    assert isinstance(error, InvalidArgument), (file.name, error)
    assert error.reason is file.reason, (file.name, error.message)
    assert file.word in error.message, (file.name, error.message)
    return file.name


async def _nothing_is_left(data_dir: Path) -> bool:
    spooled = list((data_dir / "asset" / "spool").iterdir())
    return not (open_uploads(data_dir) or spooled or blobs(data_dir))


async def test_hostile_files_of_a_worker_leave_nothing_either(harness: Harness, tmp_path: Path) -> None:
    job_id = new_id()
    lease = harness.lease(job_id, max_bytes=64 << 20, formats=("image", "video"), max_outputs=64)
    # What a worker sends has no type of its own.
    files = [file for file in hostile_files(tmp_path) if file.data and not file.content_type and len(file.data) < MANY]
    for index, file in enumerate(files):
        upload_id = await harness.send(lease, file.data, index)
        error = await refusal(harness.finish(lease, upload_id))
        assert (file.name, error.reason) == (file.name, file.reason)
    await harness.service.expiry.look()
    async with harness.service.storage.read() as tx:
        assert await tx.uploads.of_outputs([asset_id(job_id, index) for index in range(64)]) == []
    assert await harness.service.spool.names() == []
    assert await harness.blobs() == []
