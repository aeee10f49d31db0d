"""Small blobs that a store begins with before it is known which of them there shall be."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from service_kit.blobs import BlobInfo, BlobStore, NewBlob, bundles, nameless, open_store
from service_kit.blobs.local import _MOST_AHEAD, LocalBlobStore
from service_kit.blobs.small_blobs import SmallBlobs
from service_kit.errors import AlreadyExists, Unavailable
from service_kit.settings import for_tests

BUCKET = "workspace-temp"
Outcomes = Sequence[BlobInfo | Exception]
Chosen = asyncio.Future[Sequence[int]]

CHILD = """
import asyncio, sys
from pathlib import Path
from service_kit.blobs.small_blobs import SmallBlobs
from tests.blobs.test_chosen import BUCKET, LocalBlobStore, blob

write = SmallBlobs.write

def told(writing):
    write(writing)
    print("written", flush=True)

SmallBlobs.write = told

async def main():
    store, chosen = LocalBlobStore(Path(sys.argv[1])), asyncio.get_running_loop().create_future()
    await store.put_many(BUCKET, [blob("ann/1"), blob("ann/2"), blob("bob/1")], chosen=chosen)

asyncio.run(main())
"""


def blob(key: str, size_bytes: int = 5_000) -> NewBlob:
    data = hashlib.shake_128(key.encode()).digest(size_bytes)
    return NewBlob(key, data, hashlib.sha256(data).hexdigest(), "image/png")


def begin(store: BlobStore, blobs: Sequence[NewBlob]) -> tuple[Chosen, asyncio.Task[Outcomes]]:
    """Return what tells which of them there shall be, and what writes them."""
    chosen: Chosen = asyncio.get_running_loop().create_future()

    async def put() -> Outcomes:
        return await store.put_many(BUCKET, blobs, chosen=chosen)

    return chosen, asyncio.create_task(put())


async def read(store: BlobStore, key: str) -> bytes:
    return b"".join([chunk async for chunk in store.open_range(BUCKET, key)])


async def keys(store: BlobStore) -> list[str]:
    return [entry.key async for entry in store.look(BUCKET)]


def files(root: Path) -> list[str]:
    """Return whatever has a name below a folder and is none."""
    return [str(path) for path in root.rglob("*") if not path.is_dir()]


def is_anywhere(root: Path, data: bytes) -> bool:
    """Return whether bytes are in a file below a folder."""
    return any(data in Path(path).read_bytes() for path in files(root))


def open_files(root: Path, process: str = "self") -> list[str]:
    """Return what a process has open below a folder, with or without a name."""
    found = []
    for each in Path(f"/proc/{process}/fd").iterdir():
        try:
            found.append(str(each.readlink()))
        except FileNotFoundError:
            # The one with which we look.
            continue
    return [name for name in found if name.startswith(f"{root}/")]


class Ahead:
    """How often bytes were written ahead, and whether some were."""

    def __init__(self) -> None:
        self.times = 0
        self.written = asyncio.Event()


@pytest.fixture
async def ahead(monkeypatch: pytest.MonkeyPatch) -> Ahead:
    """Tell what directories write before it is chosen."""
    told, loop, write = Ahead(), asyncio.get_running_loop(), SmallBlobs.write

    def noted(writing: SmallBlobs) -> None:
        write(writing)
        told.times += 1
        loop.call_soon_threadsafe(told.written.set)

    monkeypatch.setattr(SmallBlobs, "write", noted)
    return told


@pytest.fixture(params=["", "gcs_url"], ids=["local", "gcs"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BlobStore]:
    url = request.getfixturevalue(request.param) if request.param else ""
    opened = open_store(for_tests(tmp_path, blobs__url=url))
    yield opened
    await opened.close()


async def all_begun(store: BlobStore, ahead: Ahead) -> None:
    """Wait until a directory has what it writes ahead; a bucket is sent nothing."""
    if isinstance(store, LocalBlobStore):
        async with asyncio.timeout(10):
            await ahead.written.wait()
        ahead.written.clear()


# Every store.


@pytest.mark.parametrize("early", [True, False])
async def test_those_that_are_chosen_are_there_in_that_order(store: BlobStore, ahead: Ahead, early: bool) -> None:
    blobs = [blob(f"{owner}/{number}", 70_000) for number in range(3) for owner in ("ann", "bob")]
    chosen, writing = begin(store, blobs)
    if not early:
        await all_begun(store, ahead)
    assert await keys(store) == []
    assert not writing.done()
    order = [5, 0, 2]
    chosen.set_result(order)
    written = await writing
    assert [info.key for info in written if isinstance(info, BlobInfo)] == [blobs[place].key for place in order]
    assert await keys(store) == sorted(blobs[place].key for place in order)
    for place, info in zip(order, written, strict=True):
        assert await store.stat(BUCKET, blobs[place].key) == info
        assert await read(store, blobs[place].key) == blobs[place].data


async def test_none_need_be_chosen(store: BlobStore, ahead: Ahead, tmp_path: Path) -> None:
    chosen, writing = begin(store, [blob("ann/1"), blob("ann/2")])
    await all_begun(store, ahead)
    chosen.set_result([])
    assert await writing == []
    assert await keys(store) == files(tmp_path / "blobs") == open_files(tmp_path / "blobs") == []


@pytest.mark.parametrize("how", ["refused", "cancelled", "left"])
@pytest.mark.parametrize("early", [True, False])
async def test_a_choice_that_is_never_made_leaves_nothing(
    store: BlobStore, ahead: Ahead, tmp_path: Path, how: str, early: bool
) -> None:
    blobs = [blob("ann/1"), blob("ann/2"), blob("bob/1")]
    chosen, writing = begin(store, blobs)
    if early:
        await asyncio.sleep(0)
    else:
        await all_begun(store, ahead)
    if how == "refused":
        chosen.set_exception(Unavailable("No room for rows."))
        with pytest.raises(Unavailable, match="No room for rows"):
            await writing
    else:
        (chosen if how == "cancelled" else writing).cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
    # Whoever calls owns it.
    assert chosen.done() == (how != "left")
    assert await keys(store) == files(tmp_path / "blobs") == open_files(tmp_path / "blobs") == []
    again = await store.put_many(BUCKET, blobs)
    assert [type(one) for one in again] == [BlobInfo] * 3


async def test_a_key_that_is_taken_stays_as_it_was(store: BlobStore, ahead: Ahead) -> None:
    taken = await store.put_bytes(BUCKET, "ann/2", b"taken", content_type="image/png")
    chosen, writing = begin(store, [blob("ann/1"), blob("ann/2"), blob("ann/3")])
    await all_begun(store, ahead)
    chosen.set_result([0, 1])
    assert [type(one) for one in await writing] == [BlobInfo, AlreadyExists]
    assert await store.stat(BUCKET, "ann/2") == taken
    assert await keys(store) == ["ann/1", "ann/2"]


# A directory.


async def test_bytes_are_on_the_disk_before_they_are_chosen_and_nobody_finds_them(tmp_path: Path, ahead: Ahead) -> None:
    store, blobs = LocalBlobStore(tmp_path), [blob("ann/1"), blob("ann/2"), blob("bob/1")]
    chosen, writing = begin(store, blobs)
    await all_begun(store, ahead)
    assert len(open_files(tmp_path)) == 2
    assert await keys(store) == files(tmp_path) == []
    assert await store.clear_drafts(BUCKET, older_than=timedelta(0)) == 0
    chosen.set_result([0, 1, 2])
    assert len(await writing) == 3
    assert open_files(tmp_path) == []
    assert [await read(store, one.key) for one in blobs] == [one.data for one in blobs]


async def test_no_bytes_of_what_was_not_chosen_stay_with_others(
    tmp_path: Path, ahead: Ahead, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, made, real = LocalBlobStore(tmp_path), list[int](), nameless.begin
    blobs = [blob(f"ann/{number}", 1_000) for number in range(2 * bundles.MOST)]

    def noted(folder: int, parts: Iterable[bytes]) -> int:
        made.append(real(folder, parts))
        return made[-1]

    monkeypatch.setattr(nameless, "begin", noted)
    chosen, writing = begin(store, blobs)
    await all_begun(store, ahead)
    chosen.set_result([place for place in range(len(blobs)) if place != 3])
    assert len(await writing) == len(blobs) - 1
    # Two, and the one of which not all are there once more.
    assert len(made) == 3
    assert not is_anywhere(tmp_path, blobs[3].data)
    assert is_anywhere(tmp_path, blobs[4].data)
    assert await store.stat(BUCKET, blobs[3].key) is None
    assert [await read(store, one.key) for one in blobs if one != blobs[3]] == [
        one.data for one in blobs if one != blobs[3]
    ]


async def test_a_bounded_number_of_files_waits_for_a_choice(tmp_path: Path, ahead: Ahead) -> None:
    store = LocalBlobStore(tmp_path)
    many = [[blob(f"{call}-{number}/1", 10) for number in range(_MOST_AHEAD - 1)] for call in range(4)]
    chosen, writing = begin(store, many[0])
    await all_begun(store, ahead)
    others = [begin(store, blobs) for blobs in many[1:3]]
    for other, _ in others:
        other.set_result(range(_MOST_AHEAD - 1))
    for _, waiting in others:
        assert all(isinstance(one, BlobInfo) for one in await waiting)
    assert ahead.times == 1
    assert len(open_files(tmp_path)) == _MOST_AHEAD - 1
    # A small one still fits, whatever becomes of it.
    small, refused = begin(store, [blob("small/1"), blob("small/2")])
    await all_begun(store, ahead)
    small.cancel()
    await asyncio.wait([refused])
    chosen.cancel()
    await asyncio.wait([writing])
    # There is room again.
    chosen, writing = begin(store, many[3])
    await all_begun(store, ahead)
    chosen.set_result([7])
    [one] = await writing
    assert isinstance(one, BlobInfo)
    assert ahead.times == 3
    assert open_files(tmp_path) == []


@pytest.mark.parametrize("has_room_later", [True, False])
async def test_what_did_not_fit_is_tried_again_when_it_is_chosen(
    tmp_path: Path, ahead: Ahead, monkeypatch: pytest.MonkeyPatch, has_room_later: bool
) -> None:
    store, write = LocalBlobStore(tmp_path), nameless._write_all

    def full(file: int, parts: Iterable[bytes]) -> None:
        content = list(parts)
        if blob("ann/1").data in content:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, content)

    monkeypatch.setattr(nameless, "_write_all", full)
    chosen, writing = begin(store, [blob("ann/1"), blob("ann/2"), blob("bob/1"), blob("bob/2")])
    await all_begun(store, ahead)
    assert len(open_files(tmp_path)) == 1
    if has_room_later:
        monkeypatch.setattr(nameless, "_write_all", write)
    chosen.set_result([3, 2, 1, 0])
    codes = [one.errno if isinstance(one, OSError) else None for one in await writing]
    assert codes == [None, None] + [None if has_room_later else errno.ENOSPC] * 2
    assert await keys(store) == (["ann/1", "ann/2"] if has_room_later else []) + ["bob/1", "bob/2"]
    assert open_files(tmp_path) == []


async def test_bytes_are_synced_then_named_and_then_the_folder_is_synced(
    tmp_path: Path, ahead: Ahead, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, steps, sync, give = LocalBlobStore(tmp_path), list[str](), os.fsync, nameless.give_name
    await store.put_many(BUCKET, [blob("ann/before"), blob("bob/before")])

    def noted(file: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(file).st_mode) else "bytes")
        sync(file)

    def named(file: int, folder: int, name: str) -> None:
        steps.append(name)
        give(file, folder, name)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(nameless, "give_name", named)
    chosen, writing = begin(store, [blob("ann/1"), blob("ann/2"), blob("bob/3")])
    await all_begun(store, ahead)
    assert steps == ["bytes", "bytes"]
    chosen.set_result([0, 1, 2])
    await writing
    assert steps == ["bytes", "bytes", "1.blob", "2.blob", "folder", "3.blob", "folder"]


async def test_a_folder_that_went_before_they_were_chosen_is_made_again(tmp_path: Path, ahead: Ahead) -> None:
    store = LocalBlobStore(tmp_path)
    before = await store.put_bytes(BUCKET, "default/ann/before", b"x", content_type="image/png")
    chosen, writing = begin(store, [blob("default/ann/1"), blob("default/ann/2")])
    await all_begun(store, ahead)
    assert await store.delete(BUCKET, before.key, before.generation)
    assert not (tmp_path / BUCKET / "default").exists()
    chosen.set_result([1])
    assert [type(one) for one in await writing] == [BlobInfo]
    assert await keys(store) == ["default/ann/2"]


def not_here(*_: object) -> int:
    raise nameless.NotHere


@pytest.mark.parametrize("step", ["begin", "give_name"])
async def test_where_no_file_is_without_a_name_the_chosen_ones_are_there_all_the_same(
    tmp_path: Path, ahead: Ahead, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setattr(nameless, step, not_here)
    store, blobs = LocalBlobStore(tmp_path), [blob("ann/1"), blob("ann/2"), blob("ann/3")]
    chosen, writing = begin(store, blobs)
    await all_begun(store, ahead)
    assert await keys(store) == []
    chosen.set_result([2, 0])
    assert [type(one) for one in await writing] == [BlobInfo] * 2
    assert [await read(store, key) for key in ("ann/3", "ann/1")] == [blobs[2].data, blobs[0].data]
    assert not is_anywhere(tmp_path, blobs[1].data)
    assert open_files(tmp_path) == []


def exhausted(*_: object) -> int:
    raise MemoryError


async def test_as_few_files_are_open_at_once_as_a_folder_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, most, give = LocalBlobStore(tmp_path), list[int](), nameless.give_name

    def noted(file: int, folder: int, name: str) -> None:
        most.append(sum("(deleted)" in each for each in open_files(tmp_path)))
        give(file, folder, name)

    monkeypatch.setattr(nameless, "give_name", noted)
    blobs = [blob(f"owner-{number}/1") for number in range(20)]
    assert [type(one) for one in await store.put_many(BUCKET, blobs)] == [BlobInfo] * 20
    assert most == [1] * 20


@pytest.mark.parametrize("step", ["begin", "give_name"])
async def test_a_fault_on_the_way_leaves_no_file_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    store, count, real = LocalBlobStore(tmp_path), list[None](), getattr(nameless, step)

    def second(*arguments: object) -> int:
        count.append(None)
        result: int = (real if len(count) == 1 else exhausted)(*arguments)
        return result

    monkeypatch.setattr(nameless, step, second)
    chosen, writing = begin(store, [blob("ann/1"), blob("bob/1"), blob("eve/1")])
    chosen.set_result([0, 1, 2])
    with pytest.raises(MemoryError):
        await writing
    assert open_files(tmp_path) == []
    monkeypatch.undo()
    again = await store.put_many(BUCKET, [blob("bob/1"), blob("eve/1")])
    assert [type(one) for one in again] == [BlobInfo] * 2


async def test_a_bucket_that_takes_nothing_is_no_key_that_is_taken(tmp_path: Path) -> None:
    """Whoever hears that a key is taken looks for its blob."""
    (tmp_path / BUCKET).mkdir()
    (tmp_path / BUCKET / ".tmp").write_bytes(b"no folder")
    store = LocalBlobStore(tmp_path)
    for blobs in ([blob("ann/1")], [blob("ann/1"), blob("ann/2")]):
        told = await store.put_many(BUCKET, blobs)
        assert [type(one) for one in told] == [FileExistsError] * len(blobs)


async def test_a_process_that_is_killed_before_they_are_chosen_leaves_nothing(tmp_path: Path) -> None:
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", CHILD, str(tmp_path)), stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    try:
        assert child.stdout is not None
        async with asyncio.timeout(60):
            assert await child.stdout.readline() == b"written\n"
        assert len(open_files(tmp_path, str(child.pid))) == 2
    finally:
        child.send_signal(signal.SIGKILL)
        await child.wait()
    store = LocalBlobStore(tmp_path)
    assert await keys(store) == files(tmp_path) == []
    assert await store.clear_drafts(BUCKET, older_than=timedelta(0)) == 0
    assert [type(one) for one in await store.put_many(BUCKET, [blob("ann/1"), blob("bob/1")])] == [BlobInfo] * 2
