"""Copies of blobs: immutable, so what a backup has already is not copied again, and every copy's digest is checked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from service_kit.backup.source import KnownBlob, Place
from service_kit.blobs import BlobInfo, BlobStore, UnreadableBlob
from service_kit.blobs.local import LocalBlobStore
from service_kit.clock import parse_rfc3339, rfc3339
from service_kit.errors import AlreadyExists, NotFound

_AT_ONCE = 8


@dataclass
class Copied:
    """What was copied, and what was there already.

    Attributes:
        missing: blobs that rows say are there, and that the store does not have, or torn; of those one that an earlier
            snapshot has is in this one, too.
        lost: those of them that no snapshot has.
    """

    blobs: int = 0
    blob_bytes: int = 0
    new: int = 0
    missing: list[Place] = field(default_factory=list)
    lost: list[Place] = field(default_factory=list)


async def keep_blobs(
    wanted: AsyncIterator[KnownBlob],
    store: BlobStore,
    kept: LocalBlobStore,
    entries: BinaryIO,
    tell: Callable[[Copied], None],
) -> Copied:
    """Copy those of some blobs that are in a store, and write an entry for each.

    What the store does not have is passed over where the row says so, too: of uploads that have not come, and of what
    is being deleted. Anything else is missing, and is told.
    """
    done = Copied()

    async def keep(known: KnownBlob) -> tuple[BlobInfo, bool] | None:
        info = await _whole(store, known.bucket, known.key)
        if info is not None and known.generation in ("", info.generation):
            try:
                return info, await _copy(info, store, kept)
            except NotFound:
                # A writer that broke off has taken it back.
                if not known.generation:
                    return None
        if not known.generation:
            return None
        done.missing.append((known.bucket, known.key))
        earlier = await _whole(kept, known.bucket, known.key)
        if earlier is None or earlier.generation != known.generation:
            done.lost.append((known.bucket, known.key))
            return None
        return earlier, False

    async for some in _in_groups(wanted):
        for found in await asyncio.gather(*(keep(known) for known in some)):
            if found is not None:
                _count(done, *found)
                entries.write(_entry(found[0]))
        tell(done)
    return done


async def put_back_blobs(
    entries: Iterable[Mapping[str, Any]], kept: LocalBlobStore, store: BlobStore, tell: Callable[[Copied], None]
) -> dict[Place, str]:
    """Copy the blobs of a snapshot into an empty store.

    Returns:
        The generations of those that have another one there than the rows know: a directory keeps them, a bucket gives
        its own.

    Raises:
        NotFound: the backup does not have a blob any more.
        InvalidArgument: the bytes of one are not what they were.
    """
    done = Copied()
    changed: dict[Place, str] = {}
    waiting = iter(entries)
    while some := [_info(entry) for entry in islice(waiting, _AT_ONCE)]:
        for info, put in zip(some, await asyncio.gather(*(_put(info, kept, store) for info in some)), strict=True):
            generation, new = put
            _count(done, info, new)
            if generation != info.generation:
                changed[info.bucket, info.key] = generation
        tell(done)
    return changed


def prune(root: Path, lists: Iterable[Iterator[Mapping[str, Any]]]) -> Iterator[tuple[str, str]]:
    """Give (bucket, key) of the blobs below a folder of copies that none of some snapshots lists."""
    listed = {(entry["bucket"], entry["key"]) for entries in lists for entry in entries}
    for path in root.rglob("meta.json"):
        bucket, _, key = path.parent.relative_to(root).as_posix().removesuffix(".blob").partition("/")
        if key.startswith(".tmp/") or (bucket, key) in listed:
            continue
        yield bucket, key


async def _put(info: BlobInfo, kept: LocalBlobStore, store: BlobStore) -> tuple[str, bool]:
    """Put a blob into a store unless it is there. Returns its generation there, and whether it was copied."""
    if isinstance(store, LocalBlobStore):
        return info.generation, await _copy(info, kept, store)
    there = await store.stat(info.bucket, info.key)
    if there is not None and there.sha256 == info.sha256:
        return there.generation, False
    async with aclosing(kept.open_range(info.bucket, info.key, generation=info.generation)) as chunks:
        put = await store.put(info.bucket, info.key, chunks, content_type=info.content_type, sha256=info.sha256)
    return put.generation, True


async def _whole(store: BlobStore, bucket: str, key: str) -> BlobInfo | None:
    """Return what is known about a blob; None for one that is torn, too: nobody has its bytes there any more."""
    try:
        return await store.stat(bucket, key)
    except UnreadableBlob as error:
        if not error.is_lost:
            raise
        return None


async def _copy(info: BlobInfo, source: BlobStore, target: LocalBlobStore) -> bool:
    """Copy a blob unless it is there. Returns whether it was copied."""
    try:
        there = await target.stat(info.bucket, info.key)
    except UnreadableBlob as error:
        if not error.is_lost:
            raise
        # Torn in the backup: it is copied again, from what is whole.
        await target.delete(info.bucket, info.key, "")
        there = None
    if there is not None:
        if (there.generation, there.sha256) == (info.generation, info.sha256):
            return False
        # The key was given up and written again: the older bytes belong to no row any more.
        await target.delete(there.bucket, there.key, there.generation)
    async with aclosing(source.open_range(info.bucket, info.key, generation=info.generation)) as chunks:
        try:
            await target.adopt(info, chunks)
        except AlreadyExists:
            return False
    return True


def _count(done: Copied, info: BlobInfo, new: bool) -> None:
    done.blobs += 1
    done.blob_bytes += info.size_bytes
    done.new += new


async def _in_groups(wanted: AsyncIterator[KnownBlob]) -> AsyncIterator[list[KnownBlob]]:
    group: list[KnownBlob] = []
    async for one in wanted:
        group.append(one)
        if len(group) == _AT_ONCE:
            yield group
            group = []
    if group:
        yield group


def _entry(info: BlobInfo) -> bytes:
    entry = {
        "bucket": info.bucket,
        "key": info.key,
        "generation": info.generation,
        "size_bytes": info.size_bytes,
        "sha256": info.sha256,
        "content_type": info.content_type,
        "created_at": rfc3339(info.created_at),
    }
    return json.dumps(entry, separators=(",", ":")).encode() + b"\n"


def _info(entry: Mapping[str, Any]) -> BlobInfo:
    return BlobInfo(**{**entry, "created_at": parse_rfc3339(entry["created_at"])})
