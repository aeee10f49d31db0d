"""References on their way out, to workers whose leases name them: as messages, or into a file on the same machine."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial

from asset_service.domain import MAX_PIECE_BYTES
from asset_service.handover import Handover
from service_kit.blobs import BlobInfo, BlobStore
from service_kit.capabilities import LeaseClaims
from service_kit.errors import ErrorReason, PermissionDenied
from service_kit.telemetry import get_logger

log = get_logger(__name__)

MAX_WHOLE_BYTES = 1 << 20
"""The most bytes of a reference that is answered with others."""


class References:
    """Reads blobs for leases."""

    def __init__(self, store: BlobStore, handover: Handover) -> None:
        self._store = store
        self._handover = handover

    async def hand_over(self, lease: LeaseClaims, reference_id: str, name: str) -> str | None:
        """Write a reference into the empty file that a worker has made where files are handed over.

        Returns:
            The SHA-256 that its bytes had when they were stored; None when it must be read, since there is no such
            file, or no room for it.

        Raises:
            PermissionDenied: `invalid_lease`; the lease does not name it.
            NotFound: its bytes are gone.
        """
        bucket, key, generation = granted_reference(lease, reference_id)
        file = await self._handover.open_for(name)
        if file is None:
            return None
        copying = asyncio.ensure_future(self._store.copy_into(file, bucket, key, generation=generation))
        try:
            return (await asyncio.shield(copying)).sha256
        except OSError as error:
            log.info("reference_not_handed_over", error=type(error).__name__)
            return None
        finally:
            # A thread writes there until it ends, even when the caller has gone.
            copying.add_done_callback(partial(_close, file))

    async def read(self, lease: LeaseClaims, reference_id: str) -> AsyncGenerator[bytes]:
        """Stream a reference in pieces of a message.

        Raises:
            PermissionDenied: `invalid_lease`; the lease does not name it.
            NotFound: its bytes are gone.
        """
        bucket, key, generation = granted_reference(lease, reference_id)
        async with aclosing(self._store.open_range(bucket, key, generation=generation)) as chunks:
            async for chunk in chunks:
                for start in range(0, len(chunk), MAX_PIECE_BYTES):
                    yield chunk[start : start + MAX_PIECE_BYTES]

    async def read_whole(
        self, wanted: Sequence[tuple[str, str, str] | None], most_bytes: int
    ) -> Sequence[bytes | None]:
        """Return small references, each as `granted_reference` names it.

        None for one that is not granted, or cannot be read, or is too large, or for which the others leave no room in
        `most_bytes`.
        """
        granted = [one for one in wanted if one is not None]
        found = iter(await self._store.read_whole(granted, most_bytes=MAX_WHOLE_BYTES, most_bytes_together=most_bytes))
        return [None if one is None else next(found) for one in wanted]

    async def hand_over_whole(self, found: Sequence[bytes | None], name: str) -> bool:
        """Write references one behind the other into a file that a worker has made. Returns False if there is none."""
        return await self._handover.write_over(name, [data for data in found if data is not None])


def _close(file: int, copying: asyncio.Future[BlobInfo]) -> None:
    os.close(file)
    if not copying.cancelled() and copying.exception() is not None:
        log.debug("reference_not_handed_over", error=type(copying.exception()).__name__)


def granted_reference(lease: LeaseClaims, reference_id: str) -> tuple[str, str, str]:
    """Return bucket, key and generation of a reference that a lease may read.

    Raises:
        PermissionDenied: `invalid_lease`; the lease does not name it.
    """
    for reference in lease.references:
        if reference.asset_id == reference_id:
            return reference.bucket, reference.key, reference.generation
    raise PermissionDenied("The lease does not grant this reference.", ErrorReason.INVALID_LEASE)
