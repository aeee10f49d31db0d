"""Where bytes lie: the protocol that every blob store follows, and which store the settings name.

A blob is (bucket, key, generation) with a digest and a size. Buckets have logical names; a store knows where each lies.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, unquote

from service_kit.errors import ErrorReason, Internal, InvalidArgument
from service_kit.finishing import outcomes
from service_kit.identity import Owner
from service_kit.settings import Settings, SettingsError

WORKSPACE_BUCKET = "workspace-temp"
LIBRARY_BUCKET = "user-library"

_BUCKET = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_SEGMENT = re.compile(r"[A-Za-z0-9_=@~+%-][A-Za-z0-9._=@~+%-]*")
_MAX_KEY = 1024
_MAX_SEGMENT = 200
_OWNER_PARTS = 2
RESERVED_SUFFIX = ".blob"
GCS_SCHEME = "gs://"


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """What a store knows about a blob."""

    bucket: str
    key: str
    generation: str
    size_bytes: int
    sha256: str
    content_type: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class NewBlob:
    """A small blob that is to be written: its key, its bytes with their SHA-256 in hexadecimal, and what they are."""

    key: str
    data: bytes
    sha256: str
    content_type: str


@dataclass(frozen=True, slots=True)
class NotABlob:
    """What lies where blobs lie and is none of ours: the key that its name would be, its name, and why it is none."""

    bucket: str
    key: str
    name: str
    size_bytes: int
    why: str


class UnreadableBlob(Internal):
    """What lies at the key of a blob is torn, or was put there by somebody else, or the system does not let us see.

    `is_lost` is True where looking again cannot help: the bytes themselves are wrong. A file that the system does not
    read, for want of a permission or with an error of the disk, may be read when somebody has seen to that.
    """

    def __init__(self, why: str, *, is_lost: bool = True) -> None:
        """Say why it is no blob, in words that follow a colon."""
        super().__init__(f"What lies at the key of a blob is none: {why}.")
        self.why = why
        self.is_lost = is_lost


@dataclass(frozen=True, slots=True)
class SignedUrl:
    """An address, and when it stops working."""

    url: str
    expires_at: datetime


class BlobStore(Protocol):
    """A place for bytes. What was put is there after a crash, whole, or it is not there at all.

    Every method may raise Unavailable: the store cannot be reached in the time that the settings allow. A repeat is
    harmless; one that finds its own first try done is told AlreadyExists, and `stat` shows whose bytes are there. What
    looks at one key raises UnreadableBlob where something lies there that is no blob.

    `origin` is where the addresses that it signs lead, such as https://storage.googleapis.com; empty if it signs none.
    """

    origin: str

    async def put(
        self, bucket: str, key: str, chunks: AsyncIterable[bytes], *, content_type: str, sha256: str | None = None
    ) -> BlobInfo:
        """Write a blob whose key is free. Nobody sees a part of it.

        Args:
            bucket: where it goes.
            key: its name there.
            chunks: its bytes.
            content_type: what they are.
            sha256: the digest that the bytes must have, in hexadecimal. Whoever knows it says so: some stores then
                need no second look at large files.

        Raises:
            AlreadyExists: the key is taken; its blob is untouched.
            InvalidArgument: `digest_mismatch`; nothing was written.
        """

    async def put_bytes(
        self, bucket: str, key: str, data: bytes, *, content_type: str, sha256: str | None = None
    ) -> BlobInfo:
        """Write a small blob whose key is free, as `put` does, with less effort.

        Whoever has made sure of the digest gives it: it is not computed again.
        """

    async def put_many(
        self, bucket: str, blobs: Sequence[NewBlob], *, chosen: asyncio.Future[Sequence[int]] | None = None
    ) -> Sequence[BlobInfo | Exception]:
        """Write small blobs whose keys are free, each as `put_bytes` does; some stores need as much for one as for all.

        Args:
            bucket: where they go.
            blobs: what they are.
            chosen: which of them there shall be, by their places, when that is known: until then the store may write
                bytes, of which nobody sees any and none stays after a crash. Its failure is the failure of this.
                Whoever calls owns it, and waits for the end of this.

        Returns:
            Those that were chosen, or all, in that order; or why one is not there.
        """

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
        """Write a blob of a whole file that has this digest and to which nobody writes any more.

        The store may keep the file itself, as a second name of it, instead of a copy: it must not be changed after
        this, only removed.

        Args:
            bucket: where it goes.
            key: its name there.
            path: the file.
            content_type: what it is.
            sha256: the digest that it has, in hexadecimal.
            checked: what has to succeed before there is a blob: until then the store may send bytes, and nobody sees
                them. Its failure is the failure of this. Whoever calls owns it, and waits for its end.

        Raises:
            AlreadyExists: the key is taken; its blob is untouched. Perhaps before the checks are done.
        """

    async def stat(self, bucket: str, key: str) -> BlobInfo | None:
        """Return what is known about a blob; None when there is none."""

    def open_range(
        self, bucket: str, key: str, *, offset: int = 0, length: int | None = None, generation: str | None = None
    ) -> AsyncGenerator[bytes]:
        """Stream bytes from `offset`: `length` of them, or all to the end. Whoever stops early closes it (`aclosing`).

        Raises:
            NotFound: there is no such blob, or it has another generation.
            OutOfRange: the offset lies beyond the end.
        """

    async def read_whole(
        self, wanted: Sequence[tuple[str, str, str]], *, most_bytes: int, most_bytes_together: int
    ) -> Sequence[bytes | None]:
        """Return small blobs, each (bucket, key, generation), with less effort than `open_range` takes for them.

        None for one that `open_range` does not give, or that is larger than `most_bytes`, or than what the others leave
        of `most_bytes_together`: whoever needs to know why reads it alone.
        """

    async def copy_into(self, file: int, bucket: str, key: str, *, generation: str) -> BlobInfo:
        """Copy a blob to the beginning of a file that is open for writing. Returns what is known about the blob.

        Raises:
            NotFound: there is no such blob, or it has another generation.
            OSError: the file's disk is full, or broken.
        """

    async def copy(
        self, source: tuple[str, str], target: tuple[str, str], *, generation: str | None = None
    ) -> BlobInfo:
        """Copy a blob inside the store, without its bytes passing through this process. Both are (bucket, key).

        Raises:
            NotFound: there is no such source, or it has another generation.
            AlreadyExists: the target's key is taken; its blob is untouched.
        """

    async def delete(self, bucket: str, key: str, generation: str) -> bool:
        """Remove a blob of exactly this generation. Returns False when there is none, so that a repeat is harmless.

        What is torn at a key has no generation, and is removed: nobody could ever be rid of it otherwise.
        """

    async def clear_drafts(self, bucket: str, *, older_than: timedelta) -> int:
        """Remove what writes that broke off long ago, with their process, have left. Returns how many.

        Whoever writes goes on writing: a draft to which nothing was added for that long has nobody.
        """

    def list(self, bucket: str, prefix: str = "", *, after: str = "") -> AsyncGenerator[BlobInfo]:
        """Give every blob whose key starts with `prefix` and comes after another, sorted by key."""

    def look(self, bucket: str, prefix: str = "", *, after: str = "") -> AsyncGenerator[BlobInfo | NotABlob]:
        """Give what `list` gives, and between that whatever else lies there as if it were a blob."""

    async def sign(self, bucket: str, key: str, generation: str, *, ttl: timedelta) -> SignedUrl | None:
        """Return an address at which the store itself serves this generation of a blob to whoever has it, for `ttl`.

        None when the store serves nobody by itself, as a directory does not: then the gateway does.
        """

    async def close(self) -> None:
        """End what the store has opened."""


def open_store(settings: Settings) -> BlobStore:
    """Return the store that `blobs.url` names: a directory, by default one in the data folder, or Google Cloud Storage.

    Raises:
        SettingsError: the address is of another kind.
    """
    url = settings.blobs.url
    if url.startswith(GCS_SCHEME):
        # Loaded only by those who use it: it costs a second and 40 MB.
        from service_kit.blobs.gcs import GcsBlobStore

        return GcsBlobStore.open(settings.blobs)
    from service_kit.blobs.local import LocalBlobStore

    if "://" in url:
        raise SettingsError(f"blobs.url is a folder's path or gs:// and a prefix of buckets, got {url!r}.")
    return LocalBlobStore(Path(url).expanduser() if url else settings.blobs_dir)


def key_segment(text: str) -> str:
    """Return any text, such as an owner's id, as one segment of a key. Different texts give different segments.

    Raises:
        ValueError: the text is empty or too long for a segment.
    """
    segment = quote(text, safe="=@~+").replace(".", "%2E")
    check_key(segment)
    return segment


def owner_of_key(key: str) -> Owner | None:
    """Return whose blob it is, as its key says; None when it does not. A part that was too long is its digest."""
    parts = key.split("/")
    return Owner(unquote(parts[0]), unquote(parts[1])) if len(parts) > _OWNER_PARTS else None


async def put_each(
    store: BlobStore, bucket: str, blobs: Sequence[NewBlob], chosen: asyncio.Future[Sequence[int]] | None
) -> Sequence[BlobInfo | Exception]:
    """Write small blobs one beside the other when they are chosen, as `BlobStore.put_many` asks for."""
    if chosen is not None:
        blobs = [blobs[place] for place in await asyncio.shield(chosen)]
    return await outcomes(
        store.put_bytes(bucket, blob.key, blob.data, content_type=blob.content_type, sha256=blob.sha256)
        for blob in blobs
    )


async def only_blobs(found: AsyncGenerator[BlobInfo | NotABlob]) -> AsyncGenerator[BlobInfo]:
    """Give the blobs of what was found."""
    async with aclosing(found):
        async for entry in found:
            if isinstance(entry, BlobInfo):
                yield entry


async def erase(store: BlobStore, bucket: str, key: str) -> None:
    """Remove what lies at a key, whole or torn. A key belongs to one blob for ever, so any generation is its own."""
    try:
        found = await store.stat(bucket, key)
    except UnreadableBlob:
        found = None
    await store.delete(bucket, key, found.generation if found is not None else "")


def check_digest(sha256: str, expected: str | None) -> None:
    """Raise InvalidArgument unless bytes have the digest that was announced, where one was."""
    if expected not in (None, sha256):
        raise InvalidArgument(
            f"The bytes have the SHA-256 {sha256}, and {expected} was announced; send them again.",
            ErrorReason.DIGEST_MISMATCH,
        )


def check_bucket(bucket: str) -> None:
    """Raise ValueError unless the text may name a bucket."""
    if not _BUCKET.fullmatch(bucket):
        raise ValueError(f"a bucket's name is 3..63 of a-z, 0-9 and -, got {bucket[:80]!r}")


def check_key(key: str) -> None:
    """Raise ValueError unless the text may be a key: no way out of the bucket, nothing a store keeps for itself."""
    if not 1 <= len(key) <= _MAX_KEY:
        raise ValueError(f"a key has 1..{_MAX_KEY} characters, got {len(key)}")
    for segment in key.split("/"):
        if len(segment) > _MAX_SEGMENT or not _SEGMENT.fullmatch(segment) or segment.endswith(RESERVED_SUFFIX):
            raise ValueError(f"a key cannot have the segment {segment[:80]!r}")
