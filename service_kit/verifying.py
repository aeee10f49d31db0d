"""Reads blobs to see whether their bytes are still those that were written, at a bounded rate."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing

from service_kit.blobs import BlobInfo, BlobStore, UnreadableBlob
from service_kit.errors import NotFound, Unavailable

BYTES_PER_SECOND = 64 << 20
"""How fast blobs are read, so that others have the rest of the disk and of the network."""

AT_ONCE_BYTES = 256 << 20
"""After how many bytes a page ends."""

_LONGEST_S = 10.0
"""How long one blob takes at most for the sake of the rate: a larger one is read faster, since a request has an end."""


class Verifying:
    """Compares the bytes of blobs with the digests that they had when they were written."""

    def __init__(
        self,
        store: BlobStore,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Read from a store. `now` is in seconds."""
        self._store = store
        self._now = now
        self._sleep = sleep

    async def damage(self, info: BlobInfo) -> str:
        """Return what is wrong with the bytes of a blob, as a sentence; empty when nothing is, or when it is gone."""
        said = ""
        # What cannot be read is tried once more: a connection may have broken off.
        for _ in range(2):
            try:
                sha256 = await self._digest(info)
            except (NotFound, UnreadableBlob) as error:
                if not await self._is_there(info):
                    return ""
                said = error.message
            except Unavailable as error:
                said = f"The bytes cannot be read: {error.message}"
            except OSError as error:
                said = f"The bytes cannot be read: {error.strerror}."
            else:
                right = sha256 == info.sha256
                return "" if right else f"The bytes have the SHA-256 {sha256}, and {info.sha256} was written."
        return said

    async def _digest(self, info: BlobInfo) -> str:
        rate = max(BYTES_PER_SECOND, info.size_bytes / _LONGEST_S)
        digest, begun, done = hashlib.sha256(), self._now(), 0
        async with aclosing(self._store.open_range(info.bucket, info.key, generation=info.generation)) as pieces:
            async for piece in pieces:
                await asyncio.to_thread(digest.update, piece)
                done += len(piece)
                early = begun + done / rate - self._now()
                if early > 0:
                    await self._sleep(early)
        return digest.hexdigest()

    async def _is_there(self, info: BlobInfo) -> bool:
        try:
            found = await self._store.stat(info.bucket, info.key)
        except UnreadableBlob:
            return True
        return found is not None and found.generation == info.generation
