"""What is particular to blobs in a directory."""

from __future__ import annotations

import asyncio
import os
import stat
import threading
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

import pytest

from service_kit.blobs import BlobInfo, open_store
from service_kit.blobs.local import LocalBlobStore
from service_kit.settings import for_tests


async def once(part: bytes) -> AsyncIterator[bytes]:
    yield part


async def test_a_copy_takes_no_second_space_on_the_disk(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path)
    await store.put("workspace-temp", "a", once(b"x"), content_type="image/png")
    await store.copy(("workspace-temp", "a"), ("user-library", "b"))
    assert (tmp_path / "workspace-temp/a.blob/data").samefile(tmp_path / "user-library/b.blob/data")


async def test_what_a_dead_process_left_is_removed_when_it_is_old(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path)
    await store.put_bytes("workspace-temp", "a", b"x", content_type="image/png")
    drafts = tmp_path / "workspace-temp" / ".tmp"
    for name, hours in (("old", 25), ("touched", 25), ("new", 0)):
        (drafts / name).mkdir()
        (drafts / name / "data").write_bytes(b"half")
        touched = time.time() - hours * 3600
        os.utime(drafts / name / "data", (touched, touched))
        os.utime(drafts / name, (touched, touched))
    os.utime(drafts / "touched" / "data")
    assert await store.clear_drafts("workspace-temp", older_than=timedelta(days=1)) == 1
    assert sorted(path.name for path in drafts.iterdir()) == ["new", "touched"]


async def test_nothing_is_left_of_a_deleted_blob_and_nobody_else_may_look(tmp_path: Path) -> None:
    store = open_store(for_tests(tmp_path))
    info = await store.put("workspace-temp", "ann/a", once(b"x"), content_type="image/png")
    for path in (tmp_path / "blobs").rglob("*"):
        if path.is_dir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
    await store.delete("workspace-temp", "ann/a", info.generation)
    assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == []


async def test_who_leaves_while_a_file_is_opened_leaves_it_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalBlobStore(tmp_path)
    await store.put_bytes("workspace-temp", "a", b"x", content_type="image/png")
    opened: list[BinaryIO] = []
    go, real = threading.Event(), store._open

    def slow(bucket: str, key: str, generation: str | None) -> tuple[BinaryIO, BlobInfo]:
        go.wait(10)
        found = real(bucket, key, generation)
        opened.append(found[0])
        return found

    monkeypatch.setattr(store, "_open", slow)
    reading = asyncio.ensure_future(anext(store.open_range("workspace-temp", "a")))
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    go.set()
    async with asyncio.timeout(10):
        # What closes it is a callback that nobody can wait for.
        while not (opened and opened[0].closed):  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_a_folder_that_goes_while_a_blob_is_published_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever deletes the last blob beside it removes the folders above, at any moment: here before each is used."""
    store, real = LocalBlobStore(tmp_path), Path.mkdir
    taken: list[Path] = []

    def mkdir(path: Path, *arguments: object, **options: object) -> None:
        if path.name == "uploads" and len(taken) < 3:
            taken.append(path)
            path.parent.rmdir()
        real(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", mkdir)
    await store.put_bytes("workspace-temp", "default/ada/uploads/a", b"x", content_type="image/png")

    assert len(taken) == 3
    assert (tmp_path / "workspace-temp/default/ada/uploads/a.blob/data").read_bytes() == b"x"
