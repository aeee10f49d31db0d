"""What every blob store does. A further store joins by one line in `STORES`."""

from __future__ import annotations

import asyncio
import gc
import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from service_kit.blobs import BlobInfo, BlobStore, NewBlob, check_key, key_segment, open_store
from service_kit.errors import AlreadyExists, InvalidArgument, NotFound, OutOfRange
from service_kit.settings import for_tests

BUCKET, OTHER = "workspace-temp", "user-library"
# A fixture that gives its `blobs.url`, for each store.
STORES = {"local": "local_url", "gcs": "gcs_url"}


@pytest.fixture
def local_url() -> str:
    return ""


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BlobStore]:
    opened = open_store(for_tests(tmp_path, blobs__url=request.getfixturevalue(STORES[request.param])))
    yield opened
    await opened.close()


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def read(store: BlobStore, bucket: str, key: str, **options: object) -> bytes:
    return b"".join([chunk async for chunk in store.open_range(bucket, key, **options)])  # type: ignore[arg-type]


async def test_what_was_put_comes_back_with_its_digest(store: BlobStore) -> None:
    content = b"x" * 700_000 + b"end"
    info = await store.put(BUCKET, "default/ann/one", chunks(content[:10], content[10:]), content_type="image/png")
    assert info.sha256 == hashlib.sha256(content).hexdigest()
    assert (info.size_bytes, info.content_type) == (len(content), "image/png")
    assert await store.stat(BUCKET, "default/ann/one") == info
    assert await read(store, BUCKET, "default/ann/one", generation=info.generation) == content


async def test_a_file_becomes_a_blob_that_stays_when_the_file_goes(store: BlobStore, tmp_path: Path) -> None:
    path, content = tmp_path / "spooled", b"spooled" * 400_000
    path.write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    info = await store.put_file(BUCKET, "default/ann/file", path, content_type="video/mp4", sha256=digest)
    assert (info.sha256, info.size_bytes, info.content_type) == (digest, len(content), "video/mp4")
    path.unlink()
    assert await store.stat(BUCKET, "default/ann/file") == info
    assert await read(store, BUCKET, "default/ann/file", generation=info.generation) == content
    path.write_bytes(b"other")
    with pytest.raises(AlreadyExists):
        await store.put_file(
            BUCKET, "default/ann/file", path, content_type="video/mp4", sha256=hashlib.sha256(b"other").hexdigest()
        )
    assert await read(store, BUCKET, "default/ann/file") == content


async def test_small_blobs_come_together_and_none_harms_another(store: BlobStore) -> None:
    contents = [b"a" * 300, b"", b"b" * 500, b"c" * 400]
    infos = [
        await store.put_bytes(BUCKET, f"default/ann/{number}", content, content_type="image/png")
        for number, content in enumerate(contents)
    ]
    a, empty, b, c = wanted = [(info.bucket, info.key, info.generation) for info in infos]
    assert await store.read_whole(wanted, most_bytes=500, most_bytes_together=1200) == contents
    assert await store.read_whole([], most_bytes=500, most_bytes_together=1200) == []
    gone, other = (BUCKET, "default/ann/none", a[2]), (BUCKET, a[1], "1")
    assert await store.read_whole([gone, a, other, b], most_bytes=499, most_bytes_together=1200) == [
        None,
        contents[0],
        None,
        None,
    ]
    # What does not fit takes no room.
    found = await store.read_whole([a, b, c, empty], most_bytes=500, most_bytes_together=799)
    assert sum(map(len, filter(None, found))) <= 799
    assert all(data in (None, whole) for data, whole in zip(found, [contents[0], *contents[2:], b""], strict=True))
    assert any(found)


async def test_a_blob_is_copied_into_an_open_file(store: BlobStore, tmp_path: Path) -> None:
    for number, content in enumerate((b"small", b"copied" * 800_000)):
        info = await store.put_bytes(BUCKET, f"default/ann/{number}", content, content_type="video/mp4")
        path = tmp_path / str(number)
        with path.open("wb") as file:
            assert await store.copy_into(file.fileno(), BUCKET, info.key, generation=info.generation) == info
            for key, generation in ((info.key, "1"), ("default/ann/none", info.generation)):
                with pytest.raises(NotFound):
                    await store.copy_into(file.fileno(), BUCKET, key, generation=generation)
        assert path.read_bytes() == content


async def test_what_was_put_at_once_comes_back_with_its_digest(store: BlobStore) -> None:
    info = await store.put_bytes(BUCKET, "default/ann/small", b"small", content_type="image/png")
    assert (info.sha256, info.size_bytes) == (hashlib.sha256(b"small").hexdigest(), 5)
    assert await store.stat(BUCKET, "default/ann/small") == info
    assert await read(store, BUCKET, "default/ann/small", generation=info.generation) == b"small"
    with pytest.raises(AlreadyExists):
        await store.put_bytes(BUCKET, "default/ann/small", b"other", content_type="image/png")
    assert await store.stat(BUCKET, "default/ann/small") == info
    assert [found async for found in store.list(BUCKET)] == [info]


async def test_of_several_that_were_put_together_each_is_a_blob_or_is_told_why_not(store: BlobStore) -> None:
    taken = await store.put_bytes(BUCKET, "default/ann/1", b"taken", content_type="image/png")
    contents = [bytes([number]) * (number * 50_000 + 1) for number in range(5)]
    keys = [f"default/{'bob' if number == 3 else 'ann'}/{number}" for number in range(5)]
    new = [
        NewBlob(key, content, hashlib.sha256(content).hexdigest(), "image/png")
        for key, content in zip(keys, contents, strict=True)
    ]
    written = await store.put_many(BUCKET, new)
    assert isinstance(written[1], AlreadyExists)
    assert await store.stat(BUCKET, "default/ann/1") == taken
    for place in (0, 2, 3, 4):
        info = written[place]
        assert isinstance(info, BlobInfo)
        assert (info.key, info.sha256, info.size_bytes) == (keys[place], new[place].sha256, len(contents[place]))
        assert await store.stat(BUCKET, keys[place]) == info
        assert await read(store, BUCKET, keys[place], generation=info.generation) == contents[place]
        assert await read(store, BUCKET, keys[place], offset=1, length=3) == contents[place][1:4]
    assert [found.key async for found in store.list(BUCKET)] == sorted(keys)


async def test_one_of_several_is_deleted_and_copied_for_itself(store: BlobStore, tmp_path: Path) -> None:
    contents = [bytes([number]) * 70_001 for number in range(4)]
    new = [
        NewBlob(f"default/ann/{number}", content, hashlib.sha256(content).hexdigest(), "image/png")
        for number, content in enumerate(contents)
    ]
    first, second, third, fourth = [info for info in await store.put_many(BUCKET, new) if isinstance(info, BlobInfo)]
    assert not await store.delete(BUCKET, second.key, first.generation)
    assert await store.delete(BUCKET, second.key, second.generation)
    assert await store.stat(BUCKET, second.key) is None
    copied = await store.copy((BUCKET, third.key), (OTHER, "default/ann/copy"), generation=third.generation)
    assert (copied.sha256, copied.size_bytes) == (third.sha256, third.size_bytes)
    path = tmp_path / "copied"
    with path.open("wb") as file:
        assert await store.copy_into(file.fileno(), BUCKET, fourth.key, generation=fourth.generation) == fourth
    assert path.read_bytes() == contents[3]
    for info in (first, third, fourth):
        assert await store.delete(BUCKET, info.key, info.generation)
    assert await read(store, OTHER, "default/ann/copy", generation=copied.generation) == contents[2]
    assert [found async for found in store.list(BUCKET)] == []
    again = await store.put_bytes(BUCKET, second.key, b"again", content_type="image/png")
    assert await read(store, BUCKET, second.key, generation=again.generation) == b"again"


async def test_what_is_larger_than_a_part_comes_back_whole_and_in_ranges(store: BlobStore) -> None:
    content = bytes(range(251)) * 38_000
    pieces = [content[at : at + 1_000_003] for at in range(0, len(content), 1_000_003)]
    info = await store.put(
        BUCKET, "large", chunks(*pieces), content_type="video/mp4", sha256=hashlib.sha256(content).hexdigest()
    )
    assert (info.size_bytes, info.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert await read(store, BUCKET, "large") == content
    for offset, length in ((2_097_151, 2), (4_194_303, 4_194_306), (len(content) - 1, 1)):
        assert await read(store, BUCKET, "large", offset=offset, length=length) == content[offset : offset + length]


@pytest.mark.parametrize("count", [1, 6])
async def test_bytes_with_another_digest_than_announced_are_not_kept(store: BlobStore, count: int) -> None:
    megabyte = b"x" * (1 << 20)
    announced = hashlib.sha256(b"others").hexdigest()
    with pytest.raises(InvalidArgument, match=f"and {announced} was announced"):
        await store.put(BUCKET, "wrong", chunks(*[megabyte] * count), content_type="image/png", sha256=announced)
    gc.collect()
    assert await store.stat(BUCKET, "wrong") is None
    assert [info async for info in store.list(BUCKET)] == []


async def test_a_key_of_any_owner_is_one_key(store: BlobStore) -> None:
    key, decoded = f"default/{key_segment('a@b/日本')}/a%40b", "default/a@b/a@b"
    info = await store.put_bytes(BUCKET, key, b"one", content_type="image/png")
    await store.put_bytes(BUCKET, decoded, b"other", content_type="image/png")
    await store.copy((BUCKET, key), (OTHER, key))
    assert await read(store, BUCKET, key) == await read(store, OTHER, key) == b"one"
    assert [found.key async for found in store.list(BUCKET)] == sorted([key, decoded])
    assert await store.delete(BUCKET, key, info.generation)
    assert await read(store, BUCKET, decoded) == b"other"


async def test_clearing_drafts_harms_no_blob_and_no_write(store: BlobStore) -> None:
    await store.put_bytes(BUCKET, "whole", b"whole", content_type="text/plain")

    async def slowly() -> AsyncIterator[bytes]:
        yield b"first"
        assert await store.clear_drafts(BUCKET, older_than=timedelta(hours=1)) == 0
        yield b"last"

    await store.put(BUCKET, "slow", slowly(), content_type="text/plain")
    assert await store.clear_drafts("user-library", older_than=timedelta(0)) == 0
    assert await read(store, BUCKET, "slow") == b"firstlast"
    assert await read(store, BUCKET, "whole") == b"whole"


async def test_an_empty_blob_is_a_blob(store: BlobStore) -> None:
    info = await store.put(BUCKET, "empty", chunks(), content_type="text/plain")
    assert info.size_bytes == 0
    assert await read(store, BUCKET, "empty") == b""


async def test_a_key_that_is_taken_is_never_written_again(store: BlobStore) -> None:
    first = await store.put(BUCKET, "a/b", chunks(b"first"), content_type="text/plain")
    with pytest.raises(AlreadyExists):
        await store.put(BUCKET, "a/b", chunks(b"second"), content_type="text/plain")
    assert await store.stat(BUCKET, "a/b") == first
    assert await read(store, BUCKET, "a/b") == b"first"


async def test_of_eight_that_write_one_key_at_once_exactly_one_wins(store: BlobStore) -> None:
    results = await asyncio.gather(
        *(store.put(BUCKET, "raced", chunks(bytes([n]) * 1000), content_type="text/plain") for n in range(4)),
        *(store.put_bytes(BUCKET, "raced", bytes([n]) * 1000, content_type="text/plain") for n in range(4, 8)),
        return_exceptions=True,
    )
    winners = [n for n, result in enumerate(results) if not isinstance(result, BaseException)]
    assert len(winners) == 1
    assert all(isinstance(result, AlreadyExists) for n, result in enumerate(results) if n not in winners)
    assert await read(store, BUCKET, "raced") == bytes([winners[0]]) * 1000


@pytest.mark.parametrize("announced", [None, "00"])
@pytest.mark.parametrize("sent", [b"half", b"x" * (5 << 20)])
async def test_a_put_that_breaks_off_leaves_the_key_free(store: BlobStore, sent: bytes, announced: str | None) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield sent
        assert await store.stat(BUCKET, "broken") is None, "nobody sees a part"
        yield sent
        assert [info async for info in store.list(BUCKET)] == []
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await store.put(BUCKET, "broken", broken(), content_type="text/plain", sha256=announced)
    gc.collect()
    assert await store.stat(BUCKET, "broken") is None
    assert [info async for info in store.list(BUCKET)] == []
    await store.put(BUCKET, "broken", chunks(b"whole"), content_type="text/plain")


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [(0, 3, b"012"), (4, 2, b"45"), (7, None, b"789"), (8, 100, b"89"), (10, None, b""), (0, 0, b"")],
)
async def test_ranges(store: BlobStore, offset: int, length: int | None, expected: bytes) -> None:
    await store.put(BUCKET, "digits", chunks(b"0123456789"), content_type="text/plain")
    assert await read(store, BUCKET, "digits", offset=offset, length=length) == expected


async def test_a_range_beyond_the_end_is_refused(store: BlobStore) -> None:
    await store.put(BUCKET, "digits", chunks(b"0123456789"), content_type="text/plain")
    with pytest.raises(OutOfRange, match=r"0\.\.10, got 11"):
        await read(store, BUCKET, "digits", offset=11)


async def test_what_is_not_there_is_not_found(store: BlobStore) -> None:
    info = await store.put(BUCKET, "there", chunks(b"x"), content_type="text/plain")
    for key, generation in (("absent", None), ("there", info.generation + "0"), ("there/below", None)):
        with pytest.raises(NotFound):
            await read(store, BUCKET, key, generation=generation)
        with pytest.raises(NotFound):
            await store.copy((BUCKET, key), (OTHER, "copy"), generation=generation)
    assert await store.stat(OTHER, "copy") is None


async def test_a_copy_outlives_its_source(store: BlobStore) -> None:
    source = await store.put(BUCKET, "source", chunks(b"picture"), content_type="image/png")
    copied = await store.copy((BUCKET, "source"), (OTHER, "kept/copy"), generation=source.generation)
    assert (copied.bucket, copied.key) == (OTHER, "kept/copy")
    assert (copied.sha256, copied.size_bytes, copied.content_type) == (source.sha256, 7, "image/png")
    assert await store.delete(BUCKET, "source", source.generation)
    assert await read(store, OTHER, "kept/copy", generation=copied.generation) == b"picture"


async def test_a_copy_that_takes_several_steps_is_whole(store: BlobStore) -> None:
    content = bytes(range(256)) * 5000
    await store.put(BUCKET, "source", chunks(content), content_type="image/png")
    copied = await store.copy((BUCKET, "source"), (OTHER, "copy"))
    assert await store.stat(OTHER, "copy") == copied
    assert copied.size_bytes == len(content)
    assert await read(store, OTHER, "copy") == content


async def test_a_copy_onto_a_taken_key_changes_nothing(store: BlobStore) -> None:
    await store.put(BUCKET, "source", chunks(b"new"), content_type="image/png")
    await store.put(OTHER, "taken", chunks(b"old"), content_type="image/png")
    with pytest.raises(AlreadyExists):
        await store.copy((BUCKET, "source"), (OTHER, "taken"))
    assert await read(store, OTHER, "taken") == b"old"


async def test_delete_is_by_generation_and_a_repeat_is_harmless(store: BlobStore) -> None:
    first = await store.put(BUCKET, "again", chunks(b"1"), content_type="text/plain")
    assert await store.delete(BUCKET, "again", first.generation)
    second = await store.put(BUCKET, "again", chunks(b"2"), content_type="text/plain")
    assert second.generation != first.generation
    assert not await store.delete(BUCKET, "again", first.generation)
    assert await read(store, BUCKET, "again") == b"2"
    assert await store.delete(BUCKET, "again", second.generation)
    assert not await store.delete(BUCKET, "again", second.generation)
    assert await store.stat(BUCKET, "again") is None


async def test_list_gives_keys_by_prefix_in_order(store: BlobStore) -> None:
    for key in ("b/2", "a", "b/1", "b/1/below", "bc"):
        await store.put(BUCKET, key, chunks(b"x"), content_type="text/plain")
    assert [info.key async for info in store.list(BUCKET)] == ["a", "b/1", "b/1/below", "b/2", "bc"]
    assert [info.key async for info in store.list(BUCKET, "b/")] == ["b/1", "b/1/below", "b/2"]
    assert [info async for info in store.list(OTHER)] == []


async def test_list_goes_on_after_a_key(store: BlobStore) -> None:
    for key in ("a/1", "a/2", "a/3", "b"):
        await store.put_bytes(BUCKET, key, b"x", content_type="text/plain")
    assert [info.key async for info in store.list(BUCKET, "a/", after="a/1")] == ["a/2", "a/3"]
    assert [info.key async for info in store.list(BUCKET, after="a/3")] == ["b"]


async def test_a_signed_address_gives_one_generation_and_says_how_long(store: BlobStore) -> None:
    key = f"default/{key_segment('a.b@c/日本')}/x"
    info = await store.put_bytes(BUCKET, key, b"picture", content_type="image/png")
    before = datetime.now(UTC)
    signed = await store.sign(BUCKET, key, info.generation, ttl=timedelta(minutes=5))
    if signed is None:
        assert not store.origin
        return
    assert signed.url.startswith(f"{store.origin}/")
    assert before + timedelta(minutes=4, seconds=58) < signed.expires_at <= datetime.now(UTC) + timedelta(minutes=5)
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(signed.url, headers={"range": "bytes=1-3"})
        assert (answer.status_code, answer.content) == (206, b"ict")
        assert (await http.get(signed.url.replace(info.generation, "1"))).status_code == 404
        await store.delete(BUCKET, key, info.generation)
        assert (await http.get(signed.url)).status_code == 404


@pytest.mark.parametrize(
    "key", ["", "/a", "a/", "a//b", "..", "a/../b", ".tmp/x", "a\0b", "a.blob", "a\\b", "é", "x" * 1025]
)
async def test_no_key_leads_out_of_the_bucket(store: BlobStore, key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        await store.stat(BUCKET, key)
    with pytest.raises(ValueError, match="bucket"):
        await store.stat("../x", "key")


@pytest.mark.parametrize("text", ["ann", "..", "a/b", "日本", "x.blob", "%2E"])
def test_any_owner_fits_into_a_key(text: str) -> None:
    check_key(key_segment(text))
    assert key_segment(text) != key_segment(text + "'")
