"""Copies of blobs: immutable, so what a backup has already is not copied again, and every copy's digest is checked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from service_kit.blobs import BlobInfo, BlobStore
from service_kit.blobs.local import LocalBlobStore
from service_kit.clock import parse_rfc3339, rfc3339
from service_kit.errors import AlreadyExists, NotFound

_AT_ONCE = 8


@dataclass
class Copied:
    """What was copied, and what was there already."""

    blobs: int = 0
    blob_bytes: int = 0
    new: int = 0


async def keep_blobs(
    wanted: AsyncIterator[tuple[str, str]],
    store: BlobStore,
    kept: LocalBlobStore,
    entries: BinaryIO,
    tell: Callable[[Copied], None],
) -> Copied:
    """Copy those of some blobs that are in a store, and write an entry for each.

    What the rows know and the store does not have is passed over: rows say so of uploads that have not come, and of
    what is being deleted.
    """
    done = Copied()

    async def keep(bucket: str, key: str) -> tuple[BlobInfo, bool] | None:
        info = await store.stat(bucket, key)
        if info is None:
            return None
        try:
            return info, await _copy(info, store, kept)
        except NotFound:
            # A writer that broke off has taken it back.
            return None

    async for some in _in_groups(wanted):
        for found in await asyncio.gather(*(keep(bucket, key) for bucket, key in some)):
            if found is not None:
                _count(done, *found)
                entries.write(_entry(found[0]))
        tell(done)
    return done


async def put_back_blobs(
    entries: Iterable[Mapping[str, Any]], kept: LocalBlobStore, store: LocalBlobStore, tell: Callable[[Copied], None]
) -> Copied:
    """Copy the blobs of a snapshot into an empty store, each with its generation.

    Raises:
        NotFound: the backup does not have a blob any more.
        InvalidArgument: the bytes of one are not what they were.
    """
    done = Copied()
    waiting = iter(entries)
    while some := [_info(entry) for entry in islice(waiting, _AT_ONCE)]:
        for info, new in zip(some, await asyncio.gather(*(_copy(info, kept, store) for info in some)), strict=True):
            _count(done, info, new)
        tell(done)
    return done


def prune(root: Path, lists: Iterable[Iterator[Mapping[str, Any]]]) -> Iterator[tuple[str, str]]:
    """Give (bucket, key) of the blobs below a folder of copies that none of some snapshots lists."""
    listed = {(entry["bucket"], entry["key"]) for entries in lists for entry in entries}
    for path in root.rglob("meta.json"):
        bucket, _, key = path.parent.relative_to(root).as_posix().removesuffix(".blob").partition("/")
        if key.startswith(".tmp/") or (bucket, key) in listed:
            continue
        yield bucket, key


async def _copy(info: BlobInfo, source: BlobStore, target: LocalBlobStore) -> bool:
    """Copy a blob unless it is there. Returns whether it was copied."""
    there = await target.stat(info.bucket, info.key)
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


async def _in_groups(wanted: AsyncIterator[tuple[str, str]]) -> AsyncIterator[list[tuple[str, str]]]:
    group: list[tuple[str, str]] = []
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
