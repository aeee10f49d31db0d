"""Blobs are read to see whether they are what was written: on every store, and no faster than others can bear."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncGenerator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from service_kit.blobs import BlobInfo, BlobStore, NotABlob
from service_kit.blobs.gcs import GcsBlobStore
from service_kit.blobs.local import LocalBlobStore
from service_kit.errors import Unavailable
from service_kit.settings import for_tests
from service_kit.sweeping import Place, list_some, not_a_blob, place_of, token_of
from service_kit.verifying import BYTES_PER_SECOND, Verifying
from tests.blobs.test_conformance import BUCKET, chunks, local_url, store  # noqa: F401 - fixtures

PICTURE = b"picture" * 1000


async def test_damaged_bytes_are_told_and_others_are_not(store: BlobStore) -> None:  # noqa: F811
    good = await store.put_bytes(BUCKET, "good", PICTURE, content_type="image/png")
    other = "0" * 64
    bad = await store.put_bytes(BUCKET, "bad", PICTURE, content_type="image/png", sha256=other)
    verifying = Verifying(store)
    assert await verifying.damage(good) == ""
    assert await verifying.damage(bad) == (
        f"The bytes have the SHA-256 {hashlib.sha256(PICTURE).hexdigest()}, and {other} was written."
    )
    await store.delete(BUCKET, "bad", bad.generation)
    assert await verifying.damage(bad) == ""


async def test_a_flipped_bit_a_cut_file_and_a_torn_note_in_a_folder_are_told(tmp_path: Path) -> None:
    store = LocalBlobStore(tmp_path)  # noqa: F811
    said = []
    for key in ("flipped", "cut", "torn"):
        info = await store.put(BUCKET, key, chunks(PICTURE), content_type="image/png")
        data = tmp_path / BUCKET / f"{key}.blob/data"
        if key == "flipped":
            data.write_bytes(b"P" + PICTURE[1:])
        elif key == "cut":
            data.write_bytes(PICTURE[:-1])
        else:
            data.with_name("meta.json").write_bytes(b"{")
        said.append(await Verifying(store).damage(info))
    assert said[0].startswith("The bytes have the SHA-256 ")
    assert said[1:] == [
        "The file of a blob is shorter than it was written.",
        "What lies at the key of a blob is none: the note on it is torn.",
    ]


class Slow:
    """A store that has blobs of any size, of which it keeps nothing; the clock moves by waiting alone."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.failures: list[Exception] = []

    async def open_range(self, bucket: str, key: str, *, generation: str) -> AsyncGenerator[bytes]:
        for _ in range(int(key)):
            if self.failures:
                raise self.failures.pop()
            yield bytes(1 << 20)

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def verifying(self) -> Verifying:
        return Verifying(self, now=lambda: self.now_s, sleep=self.sleep)  # type: ignore[arg-type]


def zeros(mebibytes: int) -> BlobInfo:
    size_bytes = mebibytes << 20
    sha256 = hashlib.sha256(bytes(size_bytes)).hexdigest()
    return BlobInfo(BUCKET, str(mebibytes), "1", size_bytes, sha256, "video/mp4", datetime.now(UTC))


async def test_the_rate_is_bounded_but_no_blob_takes_longer_than_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow()
    assert await slow.verifying().damage(zeros(32)) == ""
    assert slow.now_s == pytest.approx((32 << 20) / BYTES_PER_SECOND)
    monkeypatch.setattr("service_kit.verifying.BYTES_PER_SECOND", 1 << 20)
    slow = Slow()
    assert await slow.verifying().damage(zeros(40)) == ""
    assert slow.now_s == pytest.approx(10)


async def test_what_broke_off_once_is_read_again_and_what_cannot_be_read_is_told() -> None:
    slow = Slow()
    slow.failures = [Unavailable("another CRC32C; repeat.")]
    assert await slow.verifying().damage(zeros(1)) == ""
    slow.failures = [Unavailable("another CRC32C; repeat."), OSError(5, "Input/output error")]
    assert await slow.verifying().damage(zeros(1)) == "The bytes cannot be read: another CRC32C; repeat."
    slow.failures = [OSError(5, "Input/output error")] * 2
    assert await slow.verifying().damage(zeros(1)) == "The bytes cannot be read: Input/output error."


async def test_a_page_ends_where_it_has_bytes_enough_and_has_one_blob_at_least(store: BlobStore) -> None:  # noqa: F811
    infos = [await store.put_bytes(BUCKET, key, PICTURE, content_type="image/png") for key in "abc"]
    page = await list_some(store, BUCKET, "", most_bytes=1)
    assert (page.blobs, page.after) == (infos[:1], "a")
    page = await list_some(store, BUCKET, "a", most_bytes=len(PICTURE) + 1)
    assert (page.blobs, page.after) == (infos[1:], "c")
    assert (await list_some(store, BUCKET, "a")).after is None


async def test_an_object_of_somebody_else_stops_no_look(tmp_path: Path, gcs_url: str) -> None:
    opened = GcsBlobStore.open(for_tests(tmp_path, blobs__url=gcs_url).blobs)
    try:
        kept = await opened.put_bytes(BUCKET, "ann/kept", PICTURE, content_type="image/png")
        bucket: Any = opened._bucket(BUCKET)
        for name in ("ann/", "ann/theirs"):
            bucket.blob(name).upload_from_string(b"theirs", "text/plain")
        assert [entry async for entry in opened.look(BUCKET)] == [
            NotABlob(BUCKET, "ann/", "ann/", 6, "no blob can have that name"),
            kept,
            NotABlob(BUCKET, "ann/theirs", "ann/theirs", 6, "it has no SHA-256 in its metadata"),
        ]
        assert [info async for info in opened.list(BUCKET)] == [kept]
    finally:
        await opened.close()


def test_a_finding_says_what_to_do_with_what_is_no_blob() -> None:
    entry = NotABlob(BUCKET, "a\udcff", "a\udcff.blob", 5, "no blob can have that name")
    finding = not_a_blob(entry, "")
    assert (finding.key, finding.size_bytes, finding.subject) == ("a\\udcff", 5, "")
    assert finding.explanation == (
        "a\\udcff.blob in workspace-temp is torn, or not a blob of ours: no blob can have that name. "
        "Nothing uses it: look at it, and move it out of the store."
    )
    assert not_a_blob(replace(entry, key="a\x1b[2J", name="\n"), "").key == "a\\x1b[2J"
    known = not_a_blob(replace(entry, key="a"), "asset 1")
    assert known.explanation.endswith("Put it back from a backup.")


async def test_pages_end_at_names_that_are_not_of_our_making(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service_kit.sweeping.BLOBS_AT_ONCE", 1)
    folder, store = tmp_path / BUCKET, LocalBlobStore(tmp_path)  # noqa: F811
    folder.mkdir()
    names = [os.fsdecode(name) for name in (b"\xff", "Bücher".encode(), b"a%41", b'"\\' * 100)]
    for name in names:
        (folder / f"{name}.blob").touch()
    found, place = [], Place("blobs", "")
    while True:
        listed = await list_some(store, BUCKET, place.after)
        assert len(listed.others) <= 1
        found += [entry.key for entry in listed.others]
        if listed.after is None:
            break
        token = token_of("a.sweep", Place("blobs", listed.after))
        place = place_of("a.sweep", token, "blobs", frozenset({"blobs"}))
    assert found == sorted(names)


async def test_a_long_name_that_is_not_of_our_making_stays_short_where_it_is_told() -> None:
    finding = not_a_blob(NotABlob(BUCKET, "\x1b" * 4000, "\x1b" * 4000, 5, "no blob can have that name"), "")
    assert len(finding.key) + len(finding.explanation) < 1000
