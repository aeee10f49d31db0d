"""What is particular to blobs in a directory."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

from service_kit.blobs import open_store
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
