"""Files on their way in: small ones in one request, large ones in pieces, from where they broke off."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from atelier_client._calls.call import Call, one
from atelier_client._calls.workspace import create_upload
from atelier_client._policy import LONGEST_RETRY_AFTER, Policy
from atelier_client.errors import AtelierError, Timeout, Unreachable
from atelier_client.models import Asset

WHOLE_BYTES = 8 << 20
"""Up to this size a file goes in one request, and has to be sent anew when that breaks off."""

CHUNK_BYTES = 4 << 20
"""How much of a larger file goes in one request: the most that a break sends again."""

_PASSING = frozenset(
    {"incomplete_upload", "limit_reached", "too_many_requests", "service_unavailable", "deadline_exceeded"}
)


@dataclass(frozen=True, slots=True)
class Reached:
    """How far an upload is, in bytes."""

    upload_id: str
    size_bytes: int = 0
    received_bytes: int = 0


class Outgoing:
    """One file, and the requests that bring it in."""

    def __init__(self, source: Path | bytes, filename: str, import_key: str, policy: Policy) -> None:
        """Look at a file, given as its path or as bytes. Blocks. Raises OSError."""
        self._source, self._import_key, self._policy = source, import_key, policy
        self._failures = 0
        self._reached_bytes = 0
        self.filename = filename or ("" if isinstance(source, bytes) else source.name)
        if isinstance(source, bytes):
            self.size_bytes, self.sha256 = len(source), hashlib.sha256(source).hexdigest()
        else:
            with source.open("rb") as file:
                self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                self.size_bytes = file.tell()

    @property
    def whole(self) -> bool:
        """Whether it goes in one request: what is small, and what is imported, of which a repeat finds the first."""
        return self.size_bytes <= WHOLE_BYTES or bool(self._import_key)

    def create(self) -> Call[Asset]:
        """Return the request that brings it in at once. Blocks."""
        return create_upload(self._read(0, self.size_bytes), self.filename, self.sha256, self._import_key)

    def begin(self) -> Call[Reached]:
        """`POST /v1/uploads/resumable`."""
        body = {"size_bytes": self.size_bytes, "sha256": self.sha256}
        if self.filename:
            body["filename"] = self.filename
        return Call("POST", "/v1/uploads/resumable", one(Reached, "upload"), json=body)

    def append(self, at: Reached) -> Call[Reached] | None:
        """`PATCH /v1/uploads/{upload_id}` with the next piece; None when all is there. Blocks."""
        if at.received_bytes > self._reached_bytes:
            self._reached_bytes, self._failures = at.received_bytes, 0
        if at.received_bytes >= self.size_bytes:
            return None
        return Call(
            "PATCH",
            f"/v1/uploads/{at.upload_id}",
            one(Reached, "upload"),
            params={"offset": at.received_bytes},
            content=self._read(at.received_bytes, CHUNK_BYTES),
            headers={"content-type": "application/octet-stream"},
            repeatable=False,
        )

    def look(self, at: Reached) -> Call[Reached]:
        """`GET /v1/uploads/{upload_id}`: where to go on."""
        return Call("GET", f"/v1/uploads/{at.upload_id}", one(Reached, "upload"))

    def complete(self, at: Reached) -> Call[Asset]:
        """`POST /v1/uploads/{upload_id}/complete`."""
        return Call("POST", f"/v1/uploads/{at.upload_id}/complete", one(Asset, "asset"))

    def pause_after(self, error: AtelierError) -> float:
        """Return how long to wait after a piece did not go through, before asking where to go on.

        Raises:
            AtelierError: the same, when it will not pass, or when nothing has moved forward for too long.
        """
        self._failures += 1
        passing = isinstance(error, (Unreachable, Timeout)) or error.reason in _PASSING
        if not passing or self._failures >= self._policy.attempts:
            raise error
        if error.retry_after is not None:
            return min(error.retry_after, LONGEST_RETRY_AFTER)
        return self._policy.pause(self._failures)

    def _read(self, offset: int, length: int) -> bytes:
        if isinstance(self._source, bytes):
            return self._source[offset : offset + length]
        with self._source.open("rb") as file:
            file.seek(offset)
            return file.read(length)
