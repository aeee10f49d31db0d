"""Small references on their way from the asset service, those that are wanted at the same time in one message."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import grpc

from atelier.asset.v1 import upload_service_pb2 as pb
from atelier.asset.v1.upload_service_pb2_grpc import UploadServiceStub
from atelier_worker.handover_files import HandoverFile, HandoverFiles
from atelier_worker.together import Together, Waiting
from service_kit.finishing import thread_to_its_end

WHOLE_BYTES = 1 << 20
"""Up to this size a reference comes with others."""
MOST_BYTES_TOGETHER = 3 << 20
CALL_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class _Wanted:
    token: str = field(repr=False)
    asset_id: str
    size_bytes: int
    path: Path


_Waiting = Waiting[_Wanted, str | None]


class WholeReferences:
    """Reads the small references of all leases of a worker over one channel."""

    def __init__(self, channel: grpc.aio.Channel, *, handover: Path | None = None) -> None:
        """Read over a channel, and bytes through the folder `handover` if the service finds it to be its own."""
        self._stub = UploadServiceStub(channel)
        self._files = None if handover is None else HandoverFiles(handover)
        self._answered = True
        self._together = Together[_Wanted, str | None]("references", self._send)

    async def read(self, token: str, asset_id: str, size_bytes: int, path: Path) -> str | None:
        """Write a reference of about that size to a file, under a lease's token.

        Returns:
            The SHA-256 of what came; None when it is to be read alone: then it is told what is wrong, if anything is.
        """
        if not self._answered or size_bytes > WHOLE_BYTES:
            return None
        return await self._together.go(_Wanted(token, asset_id, size_bytes, path))

    async def close(self) -> None:
        """Break off what is under way; whoever waits for it is cancelled."""
        await self._together.close()
        if self._files is not None:
            await asyncio.to_thread(self._files.close)

    async def _send(self, items: list[_Waiting]) -> None:
        sizes = accumulate(item.what.size_bytes for item in items)
        self._together.put_back(items, max(1, sum(size_bytes <= MOST_BYTES_TOGETHER for size_bytes in sizes)))
        file = None if self._files is None else self._files.take()
        found: Sequence[pb.WholeReference] | None = None
        try:
            found = await self._read([item.what for item in items], file)
            paths = [None if item.answer.done() else item.what.path for item in items]
            digests = [None] * len(items) if found is None else await thread_to_its_end(_write, paths, found, file)
        finally:
            if self._files is not None and file is not None:
                # After a call that failed the service perhaps still writes there.
                leave = self._files.discard if found is None else self._files.give_back
                await asyncio.shield(asyncio.to_thread(leave, file))
        for item, sha256 in zip(items, digests, strict=True):
            if not item.answer.done():
                item.answer.set_result(sha256)

    async def _read(self, wanted: Sequence[_Wanted], file: HandoverFile | None) -> Sequence[pb.WholeReference] | None:
        """Return what the service answers for each; None when it has not answered for them."""
        request = pb.ReadReferencesRequest(
            references=[pb.LeasedReference(lease_token=one.token, asset_id=one.asset_id) for one in wanted],
            handover_name="" if file is None else file.name,
        )
        metadata = (("atelier-lease-token", wanted[0].token),)
        try:
            reply = await self._stub.ReadReferences(request, metadata=metadata, timeout=CALL_LIMIT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                # A service of an earlier release. Another call may be under way, and fail for another reason.
                self._answered = False
            return None
        return reply.references if len(reply.references) == len(wanted) else None


def _write(
    paths: Sequence[Path | None], found: Sequence[pb.WholeReference], file: HandoverFile | None
) -> list[str | None]:
    """Write what came in messages, or in a file. Returns the digest of each; None for what did not come.

    And for what cannot be written, or is wanted nowhere any more.
    """
    digests: list[str | None] = []
    offset = 0
    for path, reference in zip(paths, found, strict=True):
        sha256 = None
        with suppress(OSError):
            data = _data(reference, file, offset)
            if path is not None and data is not None:
                path.write_bytes(data)
                sha256 = hashlib.sha256(data).hexdigest()
        digests.append(sha256)
        offset += reference.handed_over_bytes
    return digests


def _data(reference: pb.WholeReference, file: HandoverFile | None, offset: int) -> bytes | None:
    """Return the bytes of a reference; None when it did not come."""
    if reference.HasField("data"):
        return reference.data
    if file is None or not reference.HasField("handed_over_bytes"):
        return None
    data = os.pread(file.descriptor, reference.handed_over_bytes, offset)
    return data if len(data) == reference.handed_over_bytes else None
