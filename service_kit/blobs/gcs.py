"""A blob store in Google Cloud Storage, through its official client.

The logical bucket `workspace-temp` is the bucket `PREFIX-workspace-temp`. A blob is one object; its generation is the
object's, its SHA-256 stands in the object's metadata from the first moment on. Nothing is ever written over: each write
carries the precondition that its key is free, each deletion its generation. The client is synchronous, so every request
runs in one of a few threads of the store's own.
"""

from __future__ import annotations

import asyncio
import hashlib
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Sequence
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import IO, Any, Self, TypeVar

import google_crc32c
from google.auth.credentials import Signing
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption
from google.cloud.storage.retry import DEFAULT_RETRY

from service_kit.blobs import (
    GCS_SCHEME,
    WORKSPACE_BUCKET,
    BlobInfo,
    NewBlob,
    NotABlob,
    SignedUrl,
    check_bucket,
    check_digest,
    check_key,
    only_blobs,
    put_each,
)
from service_kit.blobs.gcs_credentials import credentials_of
from service_kit.blobs.gcs_objects import (
    DIGEST,
    FAILURES,
    PART_BYTES,
    Upload,
    absent,
    check_crc32c,
    check_length,
    described,
    info_of,
    next_page,
    number_of,
    read_part,
    refusal_of,
    seen,
    spooled,
)
from service_kit.blobs.gcs_session import client_of
from service_kit.blobs.gcs_target import CannotWrite, Target, read_into
from service_kit.blobs.threads import Threads
from service_kit.errors import AlreadyExists, AtelierError, NotFound, OutOfRange, Unavailable
from service_kit.finishing import all_to_their_ends
from service_kit.settings import SettingsError
from service_kit.settings_table import BlobSettings
from service_kit.telemetry import get_logger

log = get_logger(__name__)
T = TypeVar("T")

# What is read at a time: first what a picture has, then more. A piece is in memory for each reader.
READ_BYTES, LATER_BYTES = 2 << 20, 4 << 20
# What goes into a file with one request: it is in memory by the piece only, and a slow line has its limit for each.
WRITTEN_BYTES = 16 << 20
# How many small blobs of one call are read beside each other: so many first pieces are in memory for it at most.
_WHOLE_AT_ONCE = 8
_PAGE = 1000
# What a request may take beyond its own limits.
_SLACK = timedelta(seconds=1)
_LONGEST_ADDRESS = timedelta(days=7)
# How long nobody is asked for a signature after one that failed.
_UNSIGNED_S = 60.0


class GcsBlobStore:
    """Blobs in the buckets of one prefix."""

    def __init__(self, client: storage.Client, prefix: str, settings: BlobSettings, signing: Signing | None) -> None:
        """Use a client; `signing` are credentials that can sign addresses, if there are any."""
        self._client = client
        self._prefix = prefix
        self._signing = signing
        self._unsigned_until = 0.0
        self.origin: str = client.api_endpoint if signing else ""
        limit = settings.retry_timeout + settings.request_timeout + _SLACK
        self._threads = Threads(settings.connections, "gcs", limit)
        self._bounds: dict[str, Any] = {
            "timeout": settings.request_timeout.total_seconds(),
            "retry": DEFAULT_RETRY.with_timeout(settings.retry_timeout.total_seconds()),
        }

    @classmethod
    def open(cls, settings: BlobSettings) -> Self:
        """Return the store of `gs://PREFIX`, with the credentials that the environment names.

        Raises:
            SettingsError: no bucket's name can begin so.
            FailedPrecondition: there are no credentials, or they cannot be read.
        """
        prefix = settings.url.removeprefix(GCS_SCHEME)
        try:
            check_bucket(f"{prefix}-{WORKSPACE_BUCKET}")
        except ValueError as error:
            raise SettingsError(
                f"blobs.url is gs:// and the prefix of buckets, got {settings.url!r}: {error}"
            ) from None
        credentials, signing = credentials_of(settings)
        return cls(client_of(credentials, settings.connections), prefix, settings, signing)

    async def put(
        self, bucket: str, key: str, chunks: AsyncIterable[bytes], *, content_type: str, sha256: str | None = None
    ) -> BlobInfo:
        """Write a blob whose key is free; see `BlobStore.put`."""
        self._check(bucket, key)
        if sha256 is not None:
            return await self._upload(bucket, key, chunks, content_type, sha256)
        with tempfile.TemporaryFile() as file:
            sha256 = await spooled(chunks, file)
            return await self._send(bucket, key, file, content_type, sha256)

    async def put_bytes(
        self, bucket: str, key: str, data: bytes, *, content_type: str, sha256: str | None = None
    ) -> BlobInfo:
        """Write a small blob whose key is free; see `BlobStore.put_bytes`."""
        self._check(bucket, key)

        def send() -> storage.Blob:
            # The digest, too, is none of the event loop's work.
            blob = described(self._bucket(bucket), key, content_type, sha256 or hashlib.sha256(data).hexdigest())
            blob.upload_from_string(data, content_type, if_generation_match=0, checksum="crc32c", **self._bounds)
            return blob

        return info_of(bucket, await self._reached(bucket, key, send))

    async def put_many(
        self, bucket: str, blobs: Sequence[NewBlob], *, chosen: asyncio.Future[Sequence[int]] | None = None
    ) -> Sequence[BlobInfo | Exception]:
        """Write small blobs whose keys are free, each with a request; see `BlobStore.put_many`."""
        return await put_each(self, bucket, blobs, chosen)

    async def put_file(
        self,
        bucket: str,
        key: str,
        path: Path,
        *,
        content_type: str,
        sha256: str,
        checked: asyncio.Future[Any] | None = None,
    ) -> BlobInfo:
        """Write a blob of a file in parts, all but the last while it is checked; see `BlobStore.put_file`."""
        self._check(bucket, key)
        with await asyncio.to_thread(path.open, "rb", 0) as file:
            return await self._send(bucket, key, file, content_type, sha256, checked)

    async def stat(self, bucket: str, key: str) -> BlobInfo | None:
        """Return what is known about a blob; see `BlobStore.stat`."""
        self._check(bucket, key)
        blob = await self._find(bucket, key, None)
        return None if blob is None else info_of(bucket, blob)

    async def open_range(
        self, bucket: str, key: str, *, offset: int = 0, length: int | None = None, generation: str | None = None
    ) -> AsyncGenerator[bytes]:
        """Stream bytes; see `BlobStore.open_range`. The CRC32C of a whole blob is checked before its last piece."""
        self._check(bucket, key)
        piece, checksum = b"", google_crc32c.Checksum()
        if generation is not None and (offset, length) == (0, None):
            small = self._bucket(bucket).blob(key, generation=number_of(generation, bucket, key))
            piece = await self._read(small, 0, READ_BYTES - 1, checksum)
            if 0 < len(piece) < READ_BYTES and small.crc32c:
                # The answer said everything: a small file takes one request.
                check_crc32c(checksum, small.crc32c)
                yield piece
                return
        blob = await self._known(bucket, key, generation)
        size_bytes = int(blob.size)
        if offset < 0 or offset > size_bytes:
            raise OutOfRange(f"offset must be 0..{size_bytes}, got {offset}")
        end = size_bytes if length is None else min(offset + length, size_bytes)
        whole = (offset, end) == (0, size_bytes)
        pinned = self._bucket(bucket).blob(key, generation=blob.generation)
        while offset < end:
            last = min(offset + (READ_BYTES if piece else LATER_BYTES), end) - 1
            piece = piece or await self._read(pinned, offset, last, checksum)
            offset += len(piece)
            check_length(offset, last + 1)
            if whole and offset == end:
                check_crc32c(checksum, blob.crc32c)
            yield piece
            piece = b""

    async def read_whole(
        self, wanted: Sequence[tuple[str, str, str]], *, most_bytes: int, most_bytes_together: int
    ) -> Sequence[bytes | None]:
        """Return small blobs, a few requests at a time; see `BlobStore.read_whole`."""
        left, turns = most_bytes_together, asyncio.Semaphore(_WHOLE_AT_ONCE)

        async def read(bucket: str, key: str, generation: str) -> bytes | None:
            nonlocal left
            data = b""
            async with turns, aclosing(self.open_range(bucket, key, generation=generation)) as chunks:
                with suppress(AtelierError):
                    # None is asked for when nothing fits any more.
                    while left > 0:
                        chunk = await anext(chunks, None)
                        if chunk is None:
                            left -= len(data)
                            return data
                        data += chunk
                        if len(data) > min(most_bytes, left):
                            break
            return None

        return await all_to_their_ends(read(*one) for one in wanted)

    async def copy(
        self, source: tuple[str, str], target: tuple[str, str], *, generation: str | None = None
    ) -> BlobInfo:
        """Copy a blob inside the store; see `BlobStore.copy`. Google may do a part per call and says so by a token."""
        self._check(*source)
        self._check(*target)
        original = await self._known(*source, generation)
        sha256 = (original.metadata or {}).get(DIGEST, "")
        copied = described(self._bucket(target[0]), target[1], original.content_type, sha256)
        token: str | None = None
        moved_bytes = -1
        while moved_bytes < 0 or token is not None:
            before = moved_bytes
            rewrite = partial(copied.rewrite, original, token=token, if_generation_match=0, **self._bounds)
            token, moved_bytes, _ = await self._run(rewrite, *target, source=source, writes=True)
            if token is not None and moved_bytes <= before:
                raise Unavailable("The object store does not get on with a copy; repeat.")
        if copied.crc32c != original.crc32c:
            await self.delete(*target, str(copied.generation))
            raise Unavailable("The object store has made a copy with another CRC32C; repeat.")
        return info_of(target[0], copied)

    async def copy_into(self, file: int, bucket: str, key: str, *, generation: str) -> BlobInfo:
        """Write a blob into an open file as it comes, and check its CRC32C; see `BlobStore.copy_into`."""
        self._check(bucket, key)
        blob = await self._known(bucket, key, generation)
        size_bytes, target = int(blob.size), Target(file)
        while target.size_bytes < size_bytes:
            end = min(target.size_bytes + WRITTEN_BYTES, size_bytes)
            # Another one for each request: the client notes in it what the answer says, or leaves out.
            pinned = self._bucket(bucket).blob(key, generation=blob.generation)
            await self._run(partial(read_into, target, pinned, end - 1, **self._bounds), bucket, key)
            check_length(target.size_bytes, end)
        check_crc32c(target.checksum, blob.crc32c)
        return info_of(bucket, blob)

    async def delete(self, bucket: str, key: str, generation: str) -> bool:
        """Remove a blob of exactly this generation; see `BlobStore.delete`."""
        self._check(bucket, key)
        try:
            number = number_of(generation, bucket, key)
            remove = partial(self._bucket(bucket).blob(key).delete, if_generation_match=number, **self._bounds)
            await self._run(remove, bucket, key, writes=True)
        except (NotFound, AlreadyExists):
            return False
        return True

    async def clear_drafts(self, bucket: str, *, older_than: timedelta) -> int:
        """Return 0: an upload that broke off is no object, and Google forgets it after a week."""
        check_bucket(bucket)
        return 0

    def list(self, bucket: str, prefix: str = "", *, after: str = "") -> AsyncGenerator[BlobInfo]:
        """Give every blob whose key starts with `prefix`; see `BlobStore.list`."""
        return only_blobs(self.look(bucket, prefix, after=after))

    async def look(self, bucket: str, prefix: str = "", *, after: str = "") -> AsyncGenerator[BlobInfo | NotABlob]:
        """Give every blob, and every object that has no blob's name, or no digest; see `BlobStore.look`."""
        check_bucket(bucket)
        found = self._client.list_blobs(
            self._bucket(bucket), prefix=prefix or None, start_offset=after or None, page_size=_PAGE, **self._bounds
        )
        pages = found.pages
        while (page := await self._reached(bucket, "", partial(next_page, pages), writes=False)) is not None:
            for blob in page:
                # The offset itself is in the answer.
                if blob.name > after:
                    yield seen(bucket, blob)

    async def sign(self, bucket: str, key: str, generation: str, *, ttl: timedelta) -> SignedUrl | None:
        """Return a V4 signed address; see `BlobStore.sign`. None when nobody can sign, now or ever."""
        self._check(bucket, key)
        if self._signing is None or time.monotonic() < self._unsigned_until:
            return None
        ttl = min(ttl, _LONGEST_ADDRESS)
        expires_at = datetime.now(UTC).replace(microsecond=0) + ttl
        make = partial(
            self._bucket(bucket).blob(key).generate_signed_url,
            version="v4",
            expiration=ttl,
            generation=generation,
            credentials=self._signing,
            api_access_endpoint=self._client.api_endpoint,
        )
        try:
            return SignedUrl(await self._run(make, bucket, key), expires_at)
        except Unavailable as error:
            # Whoever serves the bytes instead is not to wait for each of them.
            self._unsigned_until = time.monotonic() + _UNSIGNED_S
            log.warning("addresses_not_signed", account=self._signing.signer_email, error=str(error.__cause__ or error))
            return None

    async def close(self) -> None:
        """Wait for the requests that are on their way, and close the connections."""
        await self._threads.close()
        self._client.close()

    async def _upload(
        self, bucket: str, key: str, chunks: AsyncIterable[bytes], content_type: str, sha256: str
    ) -> BlobInfo:
        """Send chunks in parts. The last part, which makes the object, goes only when the digest is the announced."""
        upload = self._begun(bucket, key, content_type, sha256)
        digest = hashlib.sha256()
        part = bytearray()
        async for chunk in chunks:
            part += chunk
            if len(part) >= PART_BYTES:
                await self._reached(bucket, key, partial(upload.send, bytes(part), digest))
                part.clear()
        await self._reached(bucket, key, partial(upload.send, bytes(part), digest))
        check_digest(digest.hexdigest(), sha256)
        return await self._completed(bucket, key, upload)

    async def _send(
        self,
        bucket: str,
        key: str,
        file: IO[bytes],
        content_type: str,
        sha256: str,
        checked: asyncio.Future[Any] | None = None,
    ) -> BlobInfo:
        """Send a file in parts. The last part, which makes the object, goes only when the file is checked."""
        upload = self._begun(bucket, key, content_type, sha256)
        while await self._reached(bucket, key, partial(upload.send_part, file)):
            if checked is not None and checked.done():
                # Of a file that is refused no more is sent.
                checked.result()
        if checked is not None:
            await asyncio.shield(checked)
        return await self._completed(bucket, key, upload)

    def _begun(self, bucket: str, key: str, content_type: str, sha256: str) -> Upload:
        blob = described(self._bucket(bucket), key, content_type, sha256)
        return Upload(blob, content_type=content_type, if_generation_match=0, checksum="crc32c", **self._bounds)

    async def _completed(self, bucket: str, key: str, upload: Upload) -> BlobInfo:
        """Send the last part. The client compares its CRC32C with that of the object, and does not tell which it is."""
        damaged = False
        try:
            await self._reached(bucket, key, upload.close)
        except Unavailable as error:
            if not isinstance(error.__cause__, DataCorruption):
                raise
            damaged = True
        found = await self._find(bucket, key, None)
        if found is not None and damaged:
            await self.delete(bucket, key, str(found.generation))
        if found is None or damaged:
            raise Unavailable("The object store does not hold the bytes that were sent; repeat.")
        return info_of(bucket, found)

    def _check(self, bucket: str, key: str) -> None:
        check_bucket(bucket)
        check_key(key)

    def _bucket(self, bucket: str) -> storage.Bucket:
        return self._client.bucket(f"{self._prefix}-{bucket}")

    async def _find(self, bucket: str, key: str, generation: str | None) -> storage.Blob | None:
        if generation is not None and not (generation.isascii() and generation.isdecimal()):
            return None
        number = None if generation is None else int(generation)
        find = partial(self._bucket(bucket).get_blob, key, generation=number, **self._bounds)
        return await self._run(find, bucket, key)

    async def _read(self, blob: storage.Blob, first: int, last: int, checksum: google_crc32c.Checksum) -> bytes:
        """Return bytes, from the first to the last, and add them to a checksum; none when the blob ends before them."""
        read = partial(read_part, blob, first, last, checksum, **self._bounds)
        try:
            piece: bytes = await self._run(read, blob.bucket.name.removeprefix(f"{self._prefix}-"), blob.name)
        except OutOfRange:
            return b""
        return piece

    async def _known(self, bucket: str, key: str, generation: str | None) -> storage.Blob:
        blob = await self._find(bucket, key, generation)
        if blob is None:
            raise absent(bucket, key)
        return blob

    async def _reached(self, bucket: str, key: str, call: Callable[[], T], *, writes: bool = True) -> T:
        """Make a request that finds nothing only where the bucket is missing, or where Google has lost an upload."""
        try:
            return await self._run(call, bucket, key, writes=writes)
        except NotFound:
            raise Unavailable(f"The bucket {self._prefix}-{bucket} is not there, or has lost an upload.") from None

    async def _run(
        self,
        call: Callable[[], T],
        bucket: str,
        key: str,
        *,
        source: tuple[str, str] | None = None,
        writes: bool = False,
    ) -> T:
        """Make a request in a thread, see `Threads.run`, and say what went wrong as the domain does."""
        try:
            return await self._threads.run(call, writes=writes)
        except CannotWrite as error:
            raise error.why from None
        except FAILURES as error:
            if (answer := refusal_of(error, bucket, key, source)) is not None:
                raise answer from None
            log.warning("object_store_failed", bucket=bucket, error=f"{type(error).__name__}: {error}")
            raise Unavailable("The object store cannot be reached, or refuses; repeat.") from error
