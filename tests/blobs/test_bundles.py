"""Small blobs of a directory that were written together: one file, of which each is a part."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from service_kit.blobs import BlobInfo, NewBlob, NotABlob, UnreadableBlob, bundles, nameless
from service_kit.blobs.local import LocalBlobStore
from service_kit.errors import AlreadyExists

BUCKET = "workspace-temp"


def blob(name: str, size_bytes: int = 5_000) -> NewBlob:
    data = hashlib.shake_128(name.encode()).digest(size_bytes)
    return NewBlob(name, data, hashlib.sha256(data).hexdigest(), "image/png")


async def put(store: LocalBlobStore, blobs: Sequence[NewBlob]) -> list[BlobInfo]:
    return [info for info in await store.put_many(BUCKET, blobs) if isinstance(info, BlobInfo)]


async def read(store: LocalBlobStore, key: str) -> bytes:
    return b"".join([chunk async for chunk in store.open_range(BUCKET, key)])


def inodes(root: Path) -> list[int]:
    return sorted({path.stat().st_ino for path in root.rglob("*.blob")})


async def test_those_of_one_folder_share_a_file_and_no_others(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path)
    await put(store, [blob("ann/1"), blob("bob/1"), blob("ann/2"), blob("bob/2"), blob("ann/3")])
    anns = {path.stat().st_ino for path in (tmp_path / BUCKET / "ann").iterdir()}
    bobs = {path.stat().st_ino for path in (tmp_path / BUCKET / "bob").iterdir()}
    assert (len(anns), len(bobs), len(anns | bobs)) == (1, 1, 2)
    # Nothing of one owner is in a file of another.
    [some, *_] = (tmp_path / BUCKET / "ann").iterdir()
    assert blob("bob/1").data not in some.read_bytes()


async def test_what_is_large_or_alone_has_a_file_of_its_own(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path)
    large = blob("ann/large", bundles.MOST_BYTES + 1)
    await put(store, [large, blob("ann/1"), blob("ann/2")])
    await put(store, [blob("ann/alone")])
    files = {path.name: path.stat().st_nlink for path in (tmp_path / BUCKET / "ann").iterdir()}
    assert files == {"large.blob": 1, "1.blob": 2, "2.blob": 2, "alone.blob": 1}
    assert await read(store, "ann/large") == large.data


async def test_more_than_one_file_has_go_into_several(tmp_path: Path) -> None:
    store, blobs = LocalBlobStore(tmp_path), [blob(f"ann/{number}", 100) for number in range(2 * bundles.MOST + 1)]
    assert [info.key for info in await put(store, blobs)] == [one.key for one in blobs]
    assert len(inodes(tmp_path)) == 3
    assert [await read(store, one.key) for one in blobs] == [one.data for one in blobs]


async def test_the_room_is_free_when_the_last_of_them_is_deleted(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path)
    infos = await put(store, [blob(f"ann/{number}") for number in range(3)])
    kept = os.open(tmp_path / BUCKET / "ann" / "0.blob", os.O_RDONLY)
    try:
        for left, info in zip((2, 1, 0), infos, strict=True):
            assert await store.delete(BUCKET, info.key, info.generation)
            assert os.fstat(kept).st_nlink == left
    finally:
        os.close(kept)


async def test_a_copy_keeps_no_other_and_does_not_change_with_its_source(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path)
    first, second = await put(store, [blob("ann/1"), blob("ann/2")])
    await store.copy((BUCKET, "ann/2"), ("user-library", "ann/kept"), generation=second.generation)
    kept = tmp_path / "user-library" / "ann" / "kept.blob" / "data"
    assert kept.read_bytes() == blob("ann/2").data
    for info in (first, second):
        await store.delete(BUCKET, info.key, info.generation)
    assert kept.read_bytes() == blob("ann/2").data


async def test_a_taken_name_is_left_and_the_others_are_written(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path)
    [before] = await put(store, [blob("ann/2")])
    told = await store.put_many(BUCKET, [blob("ann/1"), blob("ann/2", 7), blob("ann/3")])
    assert [type(one) for one in told] == [BlobInfo, AlreadyExists, BlobInfo]
    assert await store.stat(BUCKET, "ann/2") == before
    assert [entry.key async for entry in store.list(BUCKET)] == ["ann/1", "ann/2", "ann/3"]


async def test_where_no_file_is_without_a_name_each_is_a_blob_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nameless, "_NAMELESS", None)
    store, blobs = LocalBlobStore(tmp_path), [blob("ann/1"), blob("ann/2")]
    assert len(await put(store, blobs)) == 2
    assert [await read(store, one.key) for one in blobs] == [one.data for one in blobs]


@pytest.mark.parametrize("step", ["write", "name"])
async def test_a_full_disk_is_told_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    store = LocalBlobStore(tmp_path)
    await put(store, [blob("ann/before")])

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(nameless, *(("_write_all", full) if step == "write" else ("give_name", full)))
        told = await store.put_many(BUCKET, [blob("ann/1"), blob("ann/2")])
    assert [isinstance(one, OSError) and one.errno for one in told] == [28, 28]
    assert [path.name for path in (tmp_path / BUCKET / "ann").iterdir()] == ["before.blob"]
    assert len(await put(store, [blob("ann/1"), blob("ann/2")])) == 2


async def test_a_folder_that_fails_harms_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, blobs = LocalBlobStore(tmp_path), [blob(f"{name}/{number}") for name in ("ann", "bob") for number in (1, 2)]
    anns = tmp_path / BUCKET / "ann"
    anns.mkdir(parents=True)
    broken, sync = anns.stat().st_ino, os.fsync

    def failing(file: int) -> None:
        if os.fstat(file).st_ino == broken:
            raise OSError(errno.EIO, "Input/output error")
        sync(file)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", failing)
        told = await store.put_many(BUCKET, blobs)
    # Names that a crash may lose are not said to be there.
    assert [isinstance(one, OSError) and one.errno for one in told] == [errno.EIO, errno.EIO, False, False]
    shutil.rmtree(tmp_path / BUCKET)
    anns.parent.mkdir()
    anns.write_bytes(b"no folder")
    assert [type(one) for one in await store.put_many(BUCKET, blobs)] == [AlreadyExists] * 2 + [BlobInfo] * 2


async def test_a_folder_that_goes_meanwhile_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever deletes the last blob beside them removes the folder, before they have their names."""
    store, give = LocalBlobStore(tmp_path), nameless.give_name
    gone = False

    def late(file: int, folder: int, name: str) -> None:
        nonlocal gone
        if not gone:
            gone = True
            shutil.rmtree(tmp_path / BUCKET / "ann")
        give(file, folder, name)

    monkeypatch.setattr(nameless, "give_name", late)
    assert len(await put(store, [blob("ann/1"), blob("ann/2")])) == 2
    assert [await read(store, key) for key in ("ann/1", "ann/2")] == [blob("ann/1").data, blob("ann/2").data]


async def test_what_is_torn_or_has_another_name_is_no_blob_and_can_be_removed(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path)
    await put(store, [blob("ann/1"), blob("ann/2")])
    folder = tmp_path / BUCKET / "ann"
    content = (folder / "1.blob").read_bytes()
    (folder / "renamed.blob").write_bytes(content)
    table = len(content) - 12 - 2 * 32
    for name, torn in (
        ("short", content[-40:]),
        ("many", content[:-12] + b"\xff\xff\xff\xff" + content[-8:]),
        ("beyond", content[: table + 16] + b"\x7f" * 16 + content[table + 32 :]),
    ):
        (folder / "1.blob").unlink()
        (folder / "1.blob").write_bytes(torn)
        with pytest.raises(UnreadableBlob):
            await store.stat(BUCKET, "ann/1")
        found = {entry.key: entry async for entry in store.look(BUCKET)}
        assert isinstance(found["ann/1"], NotABlob), name
        assert isinstance(found["ann/renamed"], NotABlob)
        assert await read(store, "ann/2") == blob("ann/2").data
    assert await store.delete(BUCKET, "ann/1", "")
    assert await store.delete(BUCKET, "ann/renamed", "")
    assert [entry.key async for entry in store.look(BUCKET)] == ["ann/2"]


async def test_changed_bytes_of_one_are_seen_in_it_alone(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path)
    await put(store, [blob("ann/1"), blob("ann/2")])
    path = tmp_path / BUCKET / "ann" / "1.blob"
    content = bytearray(path.read_bytes())
    content[10] ^= 1
    path.write_bytes(content)
    assert await read(store, "ann/1") != blob("ann/1").data
    assert await read(store, "ann/2") == blob("ann/2").data


async def test_bytes_are_on_the_disk_before_their_names_and_names_before_anybody_hears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, steps, sync, give = LocalBlobStore(tmp_path), list[str](), os.fsync, nameless.give_name
    await put(store, [blob("ann/before")])

    def noted(file: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(file).st_mode) else "bytes")
        sync(file)

    def named(file: int, folder: int, name: str) -> None:
        steps.append("name")
        give(file, folder, name)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(nameless, "give_name", named)
    assert len(await put(store, [blob("ann/1"), blob("ann/2")])) == 2
    assert steps == ["bytes", "name", "name", "folder"]


async def test_names_are_on_the_disk_though_a_second_file_cannot_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A system that suddenly has no files without a name: the first of two shared ones is there, and told to be."""
    store, synced, sync, begin = LocalBlobStore(tmp_path), list[int](), os.fsync, nameless.begin
    blobs = [blob(f"ann/{number}", 100) for number in range(bundles.MOST + 1)]
    await put(store, [blob("ann/before")])

    def noted(file: int) -> None:
        synced.append(os.fstat(file).st_ino)
        sync(file)

    def once(folder: int, parts: Iterable[bytes]) -> int:
        monkeypatch.setattr(nameless, "begin", never)
        return begin(folder, parts)

    def never(folder: int, parts: Iterable[bytes]) -> int:
        raise nameless.NotHere

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(nameless, "begin", once)
    assert len(await put(store, blobs)) == len(blobs)
    # The shared one and its names, before the last blob is begun in a folder of its own.
    folder = tmp_path / BUCKET / "ann"
    assert synced[:2] == [(folder / "0.blob").stat().st_ino, folder.stat().st_ino]
    assert [await read(store, one.key) for one in blobs] == [one.data for one in blobs]
