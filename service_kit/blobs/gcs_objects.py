"""Objects of Google Cloud Storage as its client has them: what is sent with checksums, and what is known of one."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC

import google_crc32c
from google.api_core.exceptions import GoogleAPICallError
from google.cloud import storage
from google.cloud.storage.exceptions import InvalidResponse
from google.cloud.storage.fileio import BlobWriter

from service_kit.blobs import BlobInfo
from service_kit.errors import Unavailable

DIGEST = "sha256"
"""The name of the SHA-256 in an object's metadata."""


class Upload(BlobWriter):  # type: ignore[misc]
    """A resumable upload that only `close` completes: the client's own would also when it is collected, half done."""

    def __del__(self) -> None:
        """Leave the session: it is no object, and Google forgets it after a week."""


class Sent:
    """The checksums of what was sent."""

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()
        self.crc32c = google_crc32c.Checksum()

    def pass_on(self, upload: Upload, part: bytes) -> None:
        """Send bytes."""
        self.sha256.update(part)
        self.crc32c.update(part)
        upload.write(part)


def status_of(error: Exception) -> int:
    """Return the HTTP status of a failure; 0 when it is none of an answer."""
    if isinstance(error, InvalidResponse):
        return int(error.response.status_code)
    return int(error.code) if isinstance(error, GoogleAPICallError) and error.code else 0


def crc32c_text(checksum: google_crc32c.Checksum) -> str:
    """Return a checksum as Google writes it."""
    return base64.b64encode(checksum.digest()).decode("ascii")


def check_crc32c(checksum: google_crc32c.Checksum, expected: str) -> None:
    """Raise Unavailable unless bytes have the checksum that the object has."""
    if crc32c_text(checksum) != expected:
        raise Unavailable("The bytes that came from the object store have another CRC32C; repeat.")


def info_of(bucket: str, blob: storage.Blob) -> BlobInfo:
    """Return what is known about an object."""
    return BlobInfo(
        bucket,
        str(blob.name),
        str(blob.generation),
        int(blob.size),
        (blob.metadata or {}).get(DIGEST, ""),
        str(blob.content_type),
        blob.time_created.astimezone(UTC),
    )
