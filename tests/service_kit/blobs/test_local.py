"""What is particular to blobs in a directory."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator
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


async def test_nothing_is_left_of_a_deleted_blob_and_nobody_else_may_look(tmp_path: Path) -> None:
    store = open_store(for_tests(tmp_path))
    info = await store.put("workspace-temp", "ann/a", once(b"x"), content_type="image/png")
    for path in (tmp_path / "blobs").rglob("*"):
        if path.is_dir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o700
    await store.delete("workspace-temp", "ann/a", info.generation)
    assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == []
