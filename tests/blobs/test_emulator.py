"""The emulator refuses what Google refuses: without that, the suite of the blob stores would prove nothing."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from google.api_core.exceptions import ClientError, NotFound, PreconditionFailed, RequestRangeNotSatisfiable
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from tests.support.gcs import EMULATOR_ENV, emulator


@pytest.fixture
def bucket(gcs_emulator: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[storage.Bucket]:
    monkeypatch.setenv(EMULATOR_ENV, gcs_emulator)
    yield from bucket_at()


def bucket_at() -> Iterator[storage.Bucket]:
    client = storage.Client(project="tests", credentials=AnonymousCredentials())
    yield client.create_bucket(f"t{secrets.token_hex(4)}")
    client.close()


def winners_of_a_race(bucket: storage.Bucket, *, resumable: bool) -> int:
    def create(number: int) -> bool:
        blob = bucket.blob("raced")
        try:
            if resumable:
                writer = blob.open("wb", if_generation_match=0)
                # Closed again when it is collected it would ask the emulator, for minutes, when that is gone.
                with ExitStack() as unless_closed:
                    unless_closed.callback(writer.terminate)
                    writer.write(bytes([number]))
                    writer.close()
                    unless_closed.pop_all()
            else:
                blob.upload_from_string(bytes([number]), if_generation_match=0)
        except Exception as error:  # noqa: BLE001 - the two ways of uploading raise different errors
            assert getattr(error, "code", None) == 412 or error.response.status_code == 412  # type: ignore[attr-defined]
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        return sum(threads.map(create, range(8)))


@pytest.mark.parametrize("resumable", [False, True])
def test_of_eight_that_create_one_object_one_wins(bucket: storage.Bucket, resumable: bool) -> None:
    assert winners_of_a_race(bucket, resumable=resumable) == 1


def test_the_bare_emulator_lets_all_eight_win(monkeypatch: pytest.MonkeyPatch) -> None:
    with emulator("--no-rules") as url:
        monkeypatch.setenv(EMULATOR_ENV, url)
        for bare in bucket_at():
            assert winners_of_a_race(bare, resumable=False) == 8


def test_a_generation_is_read_changed_and_removed_only_by_its_number(bucket: storage.Bucket) -> None:
    blob = bucket.blob("a")
    blob.upload_from_string(b"1")
    old = blob.generation
    blob.upload_from_string(b"2", if_generation_match=old)
    new = blob.generation
    assert new != old
    assert bucket.get_blob("a", generation=old) is None
    with pytest.raises(NotFound):
        bucket.blob("a", generation=old).download_as_bytes()
    with pytest.raises(PreconditionFailed):
        blob.upload_from_string(b"3", if_generation_match=old)
    with pytest.raises(PreconditionFailed):
        bucket.blob("a").delete(if_generation_match=old)
    with pytest.raises(PreconditionFailed):
        bucket.blob("absent").delete(if_generation_match=old)
    assert bucket.blob("a").download_as_bytes() == b"2"
    bucket.blob("a").delete(if_generation_match=new)
    assert bucket.get_blob("a") is None


def test_a_range_beyond_the_end_is_refused(bucket: storage.Bucket) -> None:
    bucket.blob("a").upload_from_string(b"0123")
    assert bucket.blob("a").download_as_bytes(start=3, end=9) == b"3"
    with pytest.raises(RequestRangeNotSatisfiable):
        bucket.blob("a").download_as_bytes(start=4)


def test_a_copy_takes_several_calls_and_goes_on_only_with_its_token(bucket: storage.Bucket) -> None:
    source = bucket.blob("source")
    source.upload_from_string(b"x" * 700_000)
    target = bucket.blob("target")
    first, moved, total = target.rewrite(source, if_generation_match=0)
    assert (moved, total) == (262_144, 700_000)
    without, moved, _ = target.rewrite(source, if_generation_match=0)
    assert moved == 262_144, "without its token a copy begins anew"
    assert bucket.get_blob("target") is None, "it is there only when it is whole"
    second, moved, _ = target.rewrite(source, token=first, if_generation_match=0)
    assert moved == 524_288
    with pytest.raises(ClientError):
        bucket.blob("other").rewrite(source, token=second)
    token, moved, _ = target.rewrite(source, token=without, if_generation_match=0)
    token, moved, _ = target.rewrite(source, token=token, if_generation_match=0)
    assert (token, moved) == (None, 700_000)
    assert bucket.blob("target").download_as_bytes() == b"x" * 700_000
    with pytest.raises(PreconditionFailed):
        target.rewrite(source, if_generation_match=0)
    old = source.generation
    source.upload_from_string(b"y")
    with pytest.raises(NotFound):
        bucket.blob("third").rewrite(bucket.blob("source", generation=old))
