"""Bytes on their way in: digested as they are written, by nobody else's leave, and never written behind one's back."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from pathlib import Path

import pytest

from asset_service import spool as spool_module
from asset_service.spool import Spool
from service_kit.file_copies import copy_bytes

FIRST, SECOND = b"first" * 1000, b"second" * 1000


@pytest.fixture
async def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path / "spool")
    await made.prepare()
    await made.open("u")
    return made


async def test_what_was_written_is_not_read_again_for_its_digest(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    await spool.write("u", await spool.write("u", 0, FIRST), SECOND)
    monkeypatch.setattr(hashlib, "file_digest", None)
    assert await spool.digest("u") == hashlib.sha256(FIRST + SECOND).hexdigest()


async def test_what_another_replica_wrote_counts(spool: Spool) -> None:
    other = Spool(spool.path("u").parent)
    await other.write("u", await spool.write("u", 0, FIRST), SECOND)
    assert await spool.digest("u") == hashlib.sha256(FIRST + SECOND).hexdigest()
    await spool.write("u", len(FIRST + SECOND), FIRST)
    assert await spool.digest("u") == hashlib.sha256(FIRST + SECOND + FIRST).hexdigest()


async def test_an_upload_that_begins_anew_has_a_new_digest(spool: Spool) -> None:
    await spool.write("u", 0, FIRST)
    await spool.restart("u")
    await spool.write("u", 0, SECOND)
    assert await spool.digest("u") == hashlib.sha256(SECOND).hexdigest()


async def test_who_is_cancelled_waits_until_nothing_is_written_any_more(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go_on = threading.Event(), threading.Event()
    write = spool_module._write

    def slow(*arguments: object) -> None:
        began.set()
        go_on.wait(10)
        write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(spool_module, "_write", slow)
    writing = asyncio.create_task(spool.write("u", 0, FIRST))
    await asyncio.to_thread(began.wait, 10)
    writing.cancel()
    done, _ = await asyncio.wait([writing], timeout=0.05)
    assert not done
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert spool.path("u").read_bytes() == FIRST


async def test_who_is_cancelled_twice_waits_until_the_disk_has_the_file(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go_on = threading.Event(), threading.Event()
    sync = spool_module._sync

    def slow(path: Path) -> int:
        began.set()
        go_on.wait(10)
        return sync(path)

    monkeypatch.setattr(spool_module, "_sync", slow)
    syncing = asyncio.create_task(spool.sync("u"))
    await asyncio.to_thread(began.wait, 10)
    for _ in range(2):
        syncing.cancel()
        done, _ = await asyncio.wait([syncing], timeout=0.05)
        assert not done
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await syncing


async def test_both_files_stay_open_while_a_piece_is_copied(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Closed, their numbers go to the next files that are opened, and the rest would be written into those.
    began, go_on, open_then = threading.Event(), threading.Event(), []

    def slow(source: int, target: int, length: int, start: int = 0) -> int:
        if start:
            began.set()
            go_on.wait(10)
            open_then.append((os.fstat(source).st_size, os.fstat(target).st_size))
        return copy_bytes(source, target, length, start)

    def broken(*_: object) -> int:
        began.wait(10)
        raise OSError

    monkeypatch.setattr(spool_module, "_COPIED_BYTES", len(FIRST))
    monkeypatch.setattr(spool_module, "copy_bytes", slow)
    monkeypatch.setattr(os, "preadv", broken)
    path, size = tmp_path / "source", 2 * len(FIRST)
    path.write_bytes(FIRST * 2)
    taking = asyncio.create_task(spool.take_in("u", os.open(path, os.O_RDONLY), size, lambda: None))
    await asyncio.to_thread(began.wait, 10)
    await asyncio.wait([taking], timeout=0.05)
    go_on.set()
    with pytest.raises(OSError):
        await taking
    assert open_then == [(size, size)]
    assert not spool.path("u").stat().st_size, "the room of a copy that broke off is free again"
