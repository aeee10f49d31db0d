"""Small references on their way from the asset service, those that are wanted at the same time in one message."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path

import grpc

from atelier.asset.v1 import upload_service_pb2 as pb
from atelier.asset.v1.upload_service_pb2_grpc import UploadServiceStub
from atelier_worker.together import Together, Waiting

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

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = UploadServiceStub(channel)
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

    async def _send(self, items: list[_Waiting]) -> None:
        sizes = accumulate(item.what.size_bytes for item in items)
        self._together.put_back(items, max(1, sum(size_bytes <= MOST_BYTES_TOGETHER for size_bytes in sizes)))
        found = await self._read([item.what for item in items])
        came = [(item, data) for item, data in zip(items, found, strict=True) if not item.answer.done()]
        digests = await asyncio.to_thread(_write, [(item.what.path, data) for item, data in came])
        for (item, _), sha256 in zip(came, digests, strict=True):
            if not item.answer.done():
                item.answer.set_result(sha256)

    async def _read(self, wanted: Sequence[_Wanted]) -> Sequence[bytes | None]:
        request = pb.ReadReferencesRequest(
            references=[pb.LeasedReference(lease_token=one.token, asset_id=one.asset_id) for one in wanted]
        )
        metadata = (("atelier-lease-token", wanted[0].token),)
        try:
            reply = await self._stub.ReadReferences(request, metadata=metadata, timeout=CALL_LIMIT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                # A service of an earlier release. Another call may be under way, and fail for another reason.
                self._answered = False
            return [None] * len(wanted)
        found = [one.data if one.HasField("data") else None for one in reply.references]
        return found if len(found) == len(wanted) else [None] * len(wanted)


def _write(files: Sequence[tuple[Path, bytes | None]]) -> list[str | None]:
    """Write what came. Returns the digest of each; None for what did not come, or cannot be written."""
    digests: list[str | None] = []
    for path, data in files:
        try:
            if data is not None:
                path.write_bytes(data)
            digests.append(None if data is None else hashlib.sha256(data).hexdigest())
        except OSError:
            digests.append(None)
    return digests
