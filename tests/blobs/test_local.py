"""What is particular to blobs in a directory."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import stat
import threading
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import BinaryIO

import pytest

from service_kit.blobs import BlobInfo, NotABlob, UnreadableBlob, erase, nameless, open_store, single_files
from service_kit.blobs.local import LocalBlobStore
from service_kit.blobs.local_drafts import Drafts
from service_kit.blobs.local_files import Opened
from service_kit.errors import AlreadyExists
from service_kit.settings import for_tests


async def once(part: bytes) -> AsyncIterator[bytes]:
    yield part


async def read(store: LocalBlobStore, bucket: str, key: str, *, offset: int = 0) -> bytes:
    return b"".join([part async for part in store.open_range(bucket, key, offset=offset)])


async def test_a_copy_takes_no_second_space_on_the_disk(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path)
    await store.put("workspace-temp", "a", once(b"x"), content_type="image/png")
    await store.copy(("workspace-temp", "a"), ("user-library", "b"))
    assert (tmp_path / "workspace-temp/a.blob/data").samefile(tmp_path / "user-library/b.blob/data")


@pytest.mark.parametrize("step", ["complete", "show"])
async def test_a_write_whose_caller_is_cancelled_is_there_whole_or_not_at_all(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go_on, work = threading.Event(), threading.Event(), getattr(Drafts, step)

    def slow(*arguments: object) -> None:
        began.set()
        go_on.wait(10)
        work(*arguments)

    monkeypatch.setattr(Drafts, step, slow)
    store = LocalBlobStore(tmp_path)
    writing = asyncio.create_task(store.put("workspace-temp", "a", once(b"x"), content_type="image/png"))
    await asyncio.to_thread(began.wait, 10)
    writing.cancel()
    await asyncio.wait([writing], timeout=0.05)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await read(store, "workspace-temp", "a") == b"x"


async def test_what_a_dead_process_left_is_removed_when_it_is_old(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path)
    await store.put("workspace-temp", "a", once(b"x"), content_type="image/png")
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

    def slow(bucket: str, key: str, generation: str | None) -> Opened:
        go.wait(10)
        found = real(bucket, key, generation)
        opened.append(found.file)
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
    assert await read(store, "workspace-temp", "default/ada/uploads/a") == b"x"


async def test_bytes_are_one_file_and_nobody_reads_what_follows_them(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path)
    info = await store.put_bytes("workspace-temp", "ann/a", b"picture", content_type="image/" + "x" * 2000)
    files = [path for path in tmp_path.glob("**/*") if path.is_file()]  # noqa: ASYNC240
    assert files == [tmp_path / "workspace-temp/ann/a.blob"]
    assert files[0].read_bytes().startswith(b"picture{")
    assert await store.stat("workspace-temp", "ann/a") == info
    copied = await store.copy(("workspace-temp", "ann/a"), ("user-library", "b"))
    again = await store.copy(("user-library", "b"), ("user-library", "c"))
    assert (tmp_path / "user-library/c.blob/data").samefile(files[0])
    assert await store.delete("workspace-temp", "ann/a", info.generation)
    assert await read(store, "user-library", "b") == await read(store, "user-library", "c", offset=0) == b"picture"
    assert [found async for found in store.list("user-library")] == [copied, again]
    assert not (tmp_path / "workspace-temp/ann").exists()


@pytest.mark.parametrize("is_one_file", [True, False])
async def test_a_name_that_an_earlier_try_gave_is_on_the_disk_before_its_repeat_hears_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_one_file: bool
) -> None:
    if not is_one_file:
        monkeypatch.setattr(nameless, "_NAMELESS", None)
    store, sync, synced = LocalBlobStore(tmp_path), os.fsync, list[bool]()
    await store.put_bytes("workspace-temp", "ann/before", b"picture", content_type="image/png")
    folder = (tmp_path / "workspace-temp/ann").stat().st_ino

    def broken_once(file: int) -> None:
        is_folder = os.fstat(file).st_ino == folder
        synced.append(is_folder)
        if is_folder and synced.count(True) == 1:
            raise OSError(errno.EIO, "Input/output error")
        sync(file)

    monkeypatch.setattr(os, "fsync", broken_once)
    for error in (OSError, AlreadyExists):
        assert synced.count(True) == (error is AlreadyExists)
        with pytest.raises(error):
            await store.put_bytes("workspace-temp", "ann/a", b"picture", content_type="image/png")
    assert synced.count(True) == 2


async def test_where_no_file_is_without_a_name_bytes_are_a_folder_of_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nameless, "_NAMELESS", None)
    store = LocalBlobStore(tmp_path)
    info = await store.put_bytes("workspace-temp", "a", b"picture", content_type="image/png")
    assert (tmp_path / "workspace-temp/a.blob/data").read_bytes() == b"picture"
    assert await store.stat("workspace-temp", "a") == info
    monkeypatch.undo()
    with pytest.raises(AlreadyExists):
        await store.put_bytes("workspace-temp", "a", b"other", content_type="image/png")
    assert await read(store, "workspace-temp", "a") == b"picture"


async def test_a_folder_never_takes_the_place_of_a_file(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path)
    await store.put_bytes("workspace-temp", "a", b"picture", content_type="image/png")
    with pytest.raises(AlreadyExists):
        await store.put("workspace-temp", "a", once(b"other"), content_type="image/png")
    assert await read(store, "workspace-temp", "a") == b"picture"


@pytest.mark.parametrize("content", [b"short", b"x" * 2000, b"x" * 2000 + b"\xff\xff\xff\xffatlrblob"])
async def test_a_file_that_is_no_blob_is_told_from_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "workspace-temp").mkdir()
    (tmp_path / "workspace-temp/a.blob").write_bytes(content)
    with pytest.raises(UnreadableBlob, match="What lies at the key of a blob is none: it "):
        await LocalBlobStore(tmp_path).stat("workspace-temp", "a")


async def test_what_is_no_blob_stops_no_look_and_is_told_by_its_name(tmp_path: Path) -> None:
    store, folder = LocalBlobStore(tmp_path), tmp_path / "workspace-temp"
    kept = await store.put_bytes("workspace-temp", "ann/kept", b"picture", content_type="image/png")
    torn = await store.put("workspace-temp", "ann/torn", once(b"0123456789"), content_type="image/png")
    os.truncate(folder / "ann/torn.blob/data", 4)
    bare = await store.put("workspace-temp", "ann/bare", once(b"x"), content_type="image/png")
    (folder / "ann/bare.blob/meta.json").unlink()
    noted = await store.put("workspace-temp", "ann/noted", once(b"x"), content_type="image/png")
    (folder / "ann/noted.blob/meta.json").write_bytes(b'{"generation": 7}')
    (folder / "short.blob").write_bytes(b"short")
    (folder / "with space.blob").write_bytes(b"x")
    (folder / os.fsdecode(b"\xff.blob")).write_bytes(b"x")
    os.mkfifo(folder / "waits.blob")
    (folder / "nowhere.blob").symlink_to(tmp_path / "nothing")
    (folder / "no blob").write_bytes(b"nobody asks")

    found = [entry async for entry in store.look("workspace-temp")]
    why = {entry.key: entry.why for entry in found if isinstance(entry, NotABlob)}
    assert why == {
        torn.key: "it has 4 of 10 bytes",
        bare.key: "it leads nowhere, or its `data` or its `meta.json` is not there",
        noted.key: "the note on it is torn",
        "short": "it is too short",
        "with space": "no blob can have that name",
        os.fsdecode(b"\xff"): "no blob can have that name",
        "waits": "it is no file that has bytes",
        "nowhere": "it leads nowhere, or its `data` or its `meta.json` is not there",
    }
    assert [entry.key for entry in found] == sorted(entry.key for entry in found)
    assert [entry async for entry in store.look("workspace-temp", after="nowhere")] == [
        entry for entry in found if entry.key > "nowhere"
    ]
    assert [info async for info in store.list("workspace-temp")] == [kept]
    for path, entry in ((folder / f"{entry.key}.blob", entry) for entry in found if isinstance(entry, NotABlob)):
        assert entry.size_bytes == path.lstat().st_size


async def test_a_look_passes_by_one_file_that_the_disk_cannot_read_and_not_by_a_broken_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalBlobStore(tmp_path)
    for key in ("a", "b"):
        await store.put_bytes("workspace-temp", key, b"picture", content_type="image/png")
    code, real = errno.EIO, single_files.find

    def broken(file: int, size_bytes: int, tail: bytes) -> tuple[bytes, int]:
        if Path(f"/proc/self/fd/{file}").readlink().name == "a.blob":
            raise OSError(code, "broken")
        return real(file, size_bytes, tail)

    monkeypatch.setattr(single_files, "find", broken)
    entry, kept = [entry async for entry in store.look("workspace-temp")]
    assert isinstance(entry, NotABlob)
    assert (entry.key, kept.key) == ("a", "b")
    assert entry.why == f"it cannot be read: {os.strerror(errno.EIO)}"
    code = errno.EMFILE
    with pytest.raises(OSError, match="broken"):
        [entry async for entry in store.look("workspace-temp")]


def folder_with(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    """Return what makes a folder as a blob has it, in which one thing is something else."""

    def build(path: Path) -> None:
        path.mkdir()
        (path / "data").write_bytes(b"x")
        (path / "meta.json").write_text(json.dumps(single_files.note(BLOB)))
        (path / name).unlink()
        make(path / name)

    return build


def noted(**changed: object) -> Callable[[Path], object]:
    written = json.dumps(single_files.note(BLOB) | changed)
    return folder_with("meta.json", lambda path: path.write_text(written))


def open_files(below: Path) -> list[Path]:
    return [each for each in Path("/proc/self/fd").iterdir() if each.resolve().is_relative_to(below)]


BLOB = BlobInfo("user-library", "a", "1", 1, "0" * 64, "image/png", datetime(2026, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.symlink_to(path.name),
        os.mkfifo,
        folder_with("meta.json", Path.mkdir),
        folder_with("meta.json", os.mkfifo),
        folder_with("data", Path.mkdir),
        folder_with("data", os.mkfifo),
        folder_with("meta.json", lambda path: path.write_text("[" * 50_000)),
        noted(size_bytes=float("inf")),
        noted(size_bytes=-1),
        noted(generation="\ud800"),
        noted(generation="\0"),
        noted(sha256=None),
    ],
)
async def test_whatever_lies_there_is_told_and_never_waited_for(make: Callable[[Path], object], tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path)
    (tmp_path / "user-library").mkdir()
    make(tmp_path / "user-library/a.blob")
    [entry] = [entry async for entry in store.look("user-library")]
    assert isinstance(entry, NotABlob)
    with pytest.raises(UnreadableBlob):
        await store.stat("user-library", "a")
    assert open_files(tmp_path) == []
    # Whoever knows that it may go, such as who erases an owner, is rid of it.
    await erase(store, "user-library", "a")
    assert [entry async for entry in store.look("user-library")] == []
    make(tmp_path / "user-library/a.blob")
    assert await store.delete("user-library", "a", "1")
    assert not await store.delete("user-library", "a", "1")


async def test_bytes_that_have_lost_their_note_go_with_their_blob(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path)
    info = await store.put("user-library", "a", once(b"x"), content_type="image/png")
    (tmp_path / "user-library/a.blob/meta.json").unlink()
    assert await store.delete("user-library", "a", info.generation)
    assert [entry async for entry in store.look("user-library")] == []


async def test_of_small_blobs_no_more_is_read_than_is_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, read_bytes = LocalBlobStore(tmp_path), []
    infos = [await store.put_bytes("user-library", f"{n}", b"x" * n, content_type="image/png") for n in (40, 50, 60)]
    (tmp_path / "user-library/torn.blob").write_bytes(b"torn")

    class Counted(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            read_bytes.append(size)
            return super().read(size)

    monkeypatch.setattr(os, "fdopen", lambda file, mode, **options: Counted(file, mode))
    wanted = [("user-library", "torn", "1"), *((info.bucket, info.key, info.generation) for info in infos)]
    found = await store.read_whole(wanted, most_bytes=55, most_bytes_together=80)
    assert found == [None, b"x" * 40, None, None]
    assert read_bytes == [40]
    assert open_files(tmp_path) == []
