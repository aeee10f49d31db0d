"""Objects of Google Cloud Storage as its client has them: uploads of them, checksums, and what is known of one."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterable, Mapping
from typing import IO, Any

import google_crc32c
import requests
from google.api_core.exceptions import GoogleAPICallError, RetryError
from google.auth.exceptions import GoogleAuthError
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from google.cloud.storage.fileio import BlobWriter

from service_kit.blobs import BlobInfo, NotABlob, check_key
from service_kit.clock import parse_rfc3339
from service_kit.errors import AlreadyExists, AtelierError, NotFound, OutOfRange, Unavailable

DIGEST = "sha256"
"""The name of the SHA-256 in an object's metadata."""


PART_BYTES = 8 << 20
"""The parts of an upload, in bytes: multiples of 256 KiB. Each is a request, and three times in memory on its way."""

FAILURES = (
    GoogleAPICallError,
    RetryError,
    InvalidResponse,
    DataCorruption,
    GoogleAuthError,
    requests.RequestException,
    OSError,
)
"""What a request may raise."""

# A key is written once, so whoever has its bytes has them for good.
_CACHE_CONTROL = "private, max-age=31536000, immutable"


class Upload(BlobWriter):  # type: ignore[misc]
    """A resumable upload that only `close` completes: the client's own would also when it is collected, half done."""

    def __init__(self, blob: storage.Blob, **options: Any) -> None:
        """Upload an object that is not there yet; `options` are those of the client."""
        super().__init__(blob, chunk_size=PART_BYTES, **options)

    def send_part(self, file: IO[bytes]) -> bool:
        """Send the next part of a file, or keep what is less for `close`. Returns False when there was nothing."""
        part = file.read(PART_BYTES)
        self.write(part)
        return bool(part)

    def send(self, part: bytes, digest: hashlib._Hash) -> None:
        """Send bytes, and add them to a digest."""
        digest.update(part)
        self.write(part)

    def __del__(self) -> None:
        """Leave the session: it is no object, and Google forgets it after a week."""


def described(bucket: storage.Bucket, key: str, content_type: str, sha256: str) -> storage.Blob:
    """Return an object that is not there yet, with what is to be known about it."""
    blob = bucket.blob(key)
    blob.content_type = content_type
    blob.cache_control = _CACHE_CONTROL
    blob.metadata = {DIGEST: sha256}
    return blob


def _status_of(error: Exception) -> int:
    """Return the HTTP status of a failure; 0 when it is none of an answer."""
    if isinstance(error, InvalidResponse):
        return int(error.response.status_code)
    return int(error.code) if isinstance(error, GoogleAPICallError) and error.code else 0


def refusal_of(error: Exception, bucket: str, key: str, source: tuple[str, str] | None) -> AtelierError | None:
    """Return what Google says of a blob, or of the source of a copy; None when the request itself failed."""
    match _status_of(error):
        case 404:
            return absent(*(source or (bucket, key)))
        case 416:
            return OutOfRange(f"The blob {key} in {bucket} ends before that.")
        case 412:
            return AlreadyExists(f"The key {key} in {bucket} is taken.")
    return None


def read_part(blob: storage.Blob, first: int, last: int, checksum: google_crc32c.Checksum, **bounds: Any) -> bytes:
    """Return bytes of an object, from the first to the last, and add them to a checksum."""
    part: bytes = blob.download_as_bytes(start=first, end=last, raw_download=True, checksum=None, **bounds)
    checksum.update(part)
    return part


def check_length(reached: int, wanted: int) -> None:
    """Raise Unavailable unless a request has brought the bytes up to where they were wanted."""
    if reached != wanted:
        raise Unavailable("The object store gave fewer bytes than the file has; repeat.")


def check_crc32c(checksum: google_crc32c.Checksum, expected: str) -> None:
    """Raise Unavailable unless bytes have the checksum that the object has."""
    if base64.b64encode(checksum.digest()).decode("ascii") != expected:
        raise Unavailable("The bytes that came from the object store have another CRC32C; repeat.")


def info_of(bucket: str, blob: storage.Blob) -> BlobInfo:
    """Return what is known about an object."""
    # As it came: the client copies the metadata, and reads the time by a slow way, at each look. That was a tenth of
    # what a small output costs.
    known: Mapping[str, Any] = blob._properties
    return BlobInfo(
        bucket,
        str(known["name"]),
        str(known["generation"]),
        int(known["size"]),
        (known.get("metadata") or {}).get(DIGEST, ""),
        str(known.get("contentType")),
        parse_rfc3339(known["timeCreated"]),
    )


def seen(bucket: str, blob: storage.Blob) -> BlobInfo | NotABlob:
    """Return what is known about an object of a list, or why it is no blob."""
    info = info_of(bucket, blob)
    try:
        check_key(info.key)
    except ValueError:
        return NotABlob(bucket, info.key, info.key, info.size_bytes, "no blob can have that name")
    if not info.sha256:
        return NotABlob(bucket, info.key, info.key, info.size_bytes, "it has no SHA-256 in its metadata")
    return info


def next_page(pages: Any) -> list[storage.Blob] | None:
    """Return the objects of the next page of a list; None after the last."""
    page = next(pages, None)
    return None if page is None else list(page)


async def spooled(chunks: AsyncIterable[bytes], file: IO[bytes]) -> str:
    """Write chunks into a file, and go back to its beginning. Returns their SHA-256 in hexadecimal."""
    digest = hashlib.sha256()

    def note(chunk: bytes) -> None:
        digest.update(chunk)
        file.write(chunk)

    async for chunk in chunks:
        await asyncio.to_thread(note, chunk)
    await asyncio.to_thread(file.seek, 0)
    return digest.hexdigest()


def absent(bucket: str, key: str) -> NotFound:
    """Return the error that there is no such blob."""
    return NotFound(f"There is no blob {key} in {bucket}.")


def number_of(generation: str, bucket: str, key: str) -> int:
    """Return a generation as a number. Raises NotFound for what is none: no blob has it."""
    if not (generation.isascii() and generation.isdecimal()):
        raise absent(bucket, key)
    return int(generation)
