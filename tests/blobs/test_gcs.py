"""What is particular to blobs in Google Cloud Storage: limits in time, checksums, credentials, threads."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import threading
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import pytest

from service_kit.blobs import BlobStore, gcs, gcs_target, open_store
from service_kit.errors import AlreadyExists, FailedPrecondition, Unavailable
from service_kit.file_copies import write_at
from service_kit.settings import SettingsError, for_tests
from tests.support.gcs import CREDENTIALS_ENV, EMULATOR_ENV

BUCKET = "workspace-temp"
WAIT_S = 10
IMPATIENT: dict[str, Any] = {"blobs__request_timeout": "200ms", "blobs__retry_timeout": "200ms"}


@pytest.fixture
async def store(tmp_path: Path, gcs_url: str) -> AsyncIterator[BlobStore]:
    opened = open_store(for_tests(tmp_path, blobs__url=gcs_url))
    yield opened
    await opened.close()


async def once(part: bytes) -> AsyncIterator[bytes]:
    yield part


async def test_a_store_that_does_not_answer_costs_only_so_much_time(
    tmp_path: Path, gcs_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        for host in (silent, closed):
            monkeypatch.setenv(EMULATOR_ENV, f"http://127.0.0.1:{host.getsockname()[1]}")
            store = open_store(for_tests(tmp_path, blobs__url=gcs_url, **IMPATIENT))
            begun = time.monotonic()
            for attempt in (
                store.stat(BUCKET, "a"),
                store.put_bytes(BUCKET, "a", b"x", content_type="image/png"),
                store.put(BUCKET, "a", once(b"x"), content_type="image/png", sha256=hashlib.sha256(b"x").hexdigest()),
                store.copy((BUCKET, "a"), (BUCKET, "b")),
                store.delete(BUCKET, "a", "1"),
                anext(store.open_range(BUCKET, "a")),
                anext(store.list(BUCKET)),
            ):
                with pytest.raises(Unavailable):
                    await attempt
            assert time.monotonic() - begun < 40
            await store.close()


async def test_bytes_that_changed_in_the_store_are_not_handed_on(
    store: BlobStore, gcs_emulator: str, gcs_url: str, tmp_path: Path
) -> None:
    info = await store.put_bytes(BUCKET, "a", b"picture", content_type="image/png")
    name = f"{gcs_url.removeprefix('gs://')}-{BUCKET}"
    async with httpx.AsyncClient(trust_env=False) as http:
        changed = await http.patch(f"{gcs_emulator}/storage/v1/b/{name}/o/a", json={"crc32c": "AAAAAA=="})
        changed.raise_for_status()
    received = b""
    with pytest.raises(Unavailable, match="another CRC32C"):
        async for piece in store.open_range(BUCKET, "a"):
            received += piece
    with pytest.raises(Unavailable, match="another CRC32C"):
        async for piece in store.open_range(BUCKET, "a", generation=info.generation):
            received += piece
    assert received == b""
    with (tmp_path / "copy").open("wb") as file, pytest.raises(Unavailable, match="another CRC32C"):
        await store.copy_into(file.fileno(), BUCKET, "a", generation=info.generation)
    assert b"".join([piece async for piece in store.open_range(BUCKET, "a", offset=1)]) == b"icture"


async def test_a_copy_that_takes_many_requests_is_whole(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcs, "WRITTEN_BYTES", 3)
    info = await store.put_bytes(BUCKET, "a", b"pictures", content_type="image/png")
    with (tmp_path / "copy").open("wb") as file:
        assert await store.copy_into(file.fileno(), BUCKET, "a", generation=info.generation) == info
    assert (tmp_path / "copy").read_bytes() == b"pictures"


async def test_a_file_that_takes_no_more_is_not_the_fault_of_the_store(store: BlobStore, tmp_path: Path) -> None:
    info = await store.put_bytes(BUCKET, "a", b"picture", content_type="image/png")
    with (tmp_path / "/dev/full").open("wb") as full, pytest.raises(OSError, match="No space left"):
        await store.copy_into(full.fileno(), BUCKET, "a", generation=info.generation)


async def test_a_thread_that_nobody_waits_for_writes_into_no_other_file(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = await store.put_bytes(BUCKET, "a", b"picture", content_type="image/png")
    begun, go_on = threading.Event(), threading.Event()

    def held(file: int, piece: bytes, offset: int) -> None:
        begun.set()
        assert go_on.wait(WAIT_S)
        write_at(file, piece, offset)

    monkeypatch.setattr(gcs_target, "write_at", held)
    with (tmp_path / "copy").open("wb") as file:
        number = file.fileno()
        copying = asyncio.ensure_future(store.copy_into(number, BUCKET, "a", generation=info.generation))
        assert await asyncio.to_thread(begun.wait, WAIT_S)
        copying.cancel()
        await asyncio.wait([copying])
    with (tmp_path / "other").open("wb") as other:
        assert other.fileno() == number
        go_on.set()
        await store.close()
    assert (tmp_path / "other").read_bytes() == b""
    assert (tmp_path / "copy").read_bytes() == b"picture"


async def test_bytes_that_change_on_their_way_are_not_kept(store: BlobStore) -> None:
    digest = hashlib.sha256(b"picture").hexdigest()
    with pytest.raises(Unavailable):
        await store.put(BUCKET, "flipped", once(b"picture"), content_type="image/png", sha256=digest)
    with pytest.raises(Unavailable):
        await store.put_bytes(BUCKET, "flipped", b"picture", content_type="image/png")
    assert await store.stat(BUCKET, "flipped") is None


async def test_a_missing_bucket_is_told_apart_from_a_missing_blob(tmp_path: Path, gcs_url: str) -> None:
    store = open_store(for_tests(tmp_path, blobs__url=gcs_url + "x"))
    with pytest.raises(Unavailable, match="x-workspace-temp is not there"):
        await store.put_bytes(BUCKET, "a", b"x", content_type="image/png")
    with pytest.raises(Unavailable, match="x-workspace-temp is not there"):
        await anext(store.list(BUCKET))
    await store.close()


async def test_without_credentials_it_does_not_start(
    tmp_path: Path, gcs_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CREDENTIALS_ENV, str(tmp_path / "absent.json"))
    with pytest.raises(FailedPrecondition, match="set GOOGLE_APPLICATION_CREDENTIALS"):
        open_store(for_tests(tmp_path, blobs__url=gcs_url))
    monkeypatch.delenv(CREDENTIALS_ENV)
    store = open_store(for_tests(tmp_path, blobs__url=gcs_url))
    assert not store.origin
    assert await store.sign(BUCKET, "a", "1", ttl=timedelta(minutes=1)) is None
    await store.close()


@pytest.mark.parametrize("url", ["s3://bucket", "gs://", "gs://Upper", "gs://a/b", "gs://" + "x" * 60])
def test_an_address_that_names_no_buckets_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(SettingsError, match=r"blobs\.url"):
        open_store(for_tests(tmp_path, blobs__url=url))


async def test_an_address_is_signed_as_google_verifies_it(store: BlobStore) -> None:
    signed = await store.sign(BUCKET, "a/b%40c", "17", ttl=timedelta(days=30))
    assert signed is not None
    parts = urlsplit(signed.url)
    query = {name: values[0] for name, values in parse_qs(parts.query).items()}
    assert parts.path.endswith(f"/{quote('a/b%40c')}")
    assert query["X-Goog-Algorithm"] == "GOOG4-RSA-SHA256"
    assert (query["generation"], query["X-Goog-Expires"]) == ("17", str(7 * 86400))
    assert len(query["X-Goog-Signature"]) == 512
    begun = datetime.strptime(query["X-Goog-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    assert timedelta(0) <= begun + timedelta(days=7) - signed.expires_at <= timedelta(seconds=1)


async def test_no_more_requests_are_made_at_once_than_allowed(tmp_path: Path, gcs_url: str) -> None:
    store = open_store(for_tests(tmp_path, blobs__url=gcs_url, blobs__connections=2))
    await asyncio.gather(*(store.put_bytes(BUCKET, f"k{n}", b"x", content_type="image/png") for n in range(12)))
    assert len([thread for thread in threading.enumerate() if thread.name.startswith("gcs")]) == 2
    await store.close()
    assert [thread for thread in threading.enumerate() if thread.name.startswith("gcs")] == []


async def test_requests_go_through_the_proxy_that_the_environment_names(
    tmp_path: Path, gcs_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []

    answering: list[asyncio.Task[None] | None] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.append(asyncio.current_task())
        try:
            asked.append(await reader.readline())
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    proxy = await asyncio.start_server(answer, "127.0.0.1", 0)
    monkeypatch.setenv(EMULATOR_ENV, "http://storage.test")
    monkeypatch.setenv("no_proxy", "elsewhere.test")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}")
    store = open_store(for_tests(tmp_path, blobs__url=gcs_url, **IMPATIENT))
    # As it was at the start: nobody looks again.
    monkeypatch.delenv("http_proxy")
    with pytest.raises(Unavailable):
        await store.put_bytes(BUCKET, "a", b"x", content_type="image/png")
    await store.close()
    proxy.close()
    await proxy.wait_closed()
    # A client that lost patience may have come a last time: nothing of that is left for another test.
    await asyncio.gather(*filter(None, answering), return_exceptions=True)
    # The client asks for the bucket, too, for its own traces.
    assert any(line.startswith(b"POST http://storage.test/upload/") for line in asked)


async def test_whoever_is_cancelled_leaves_no_write_behind(store: BlobStore) -> None:
    for moment in range(8):
        key = f"cancelled/{moment}"
        writing = asyncio.ensure_future(store.put_bytes(BUCKET, key, b"x", content_type="image/png"))
        for _ in range(moment):
            await asyncio.sleep(0.001)
        writing.cancel()
        await asyncio.wait([writing])
        first = await store.stat(BUCKET, key)
        try:
            mine = await store.put_bytes(BUCKET, key, b"mine", content_type="image/png")
        except AlreadyExists:
            mine = first  # type: ignore[assignment]
        assert await store.stat(BUCKET, key) == mine
