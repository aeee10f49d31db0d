"""Moves bytes between a task's folder and the asset service, under the lease token: outputs out, references in."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal, TypeVar

import grpc

from atelier.asset.v1 import upload_service_pb2 as pb
from atelier.asset.v1.upload_service_pb2_grpc import UploadServiceStub
from atelier.type.v1 import media_pb2
from service_kit import crash
from service_kit.errors import ErrorReason
from service_kit.file_copies import copy_bytes
from service_kit.rpc_errors import from_rpc_error
from service_kit.telemetry import get_logger

CHUNK_BYTES = 16 << 20
"""How much of a file is sent before the service has said that it has it: the most that a break sends again."""
_PIECE_BYTES = 1 << 20
WHOLE_BYTES = 2 << 20
"""Up to this size an output goes with its renditions in one message, and is sent anew when the call breaks off."""
_CALL_LIMIT_S = 60.0
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
# A broken connection or a busy service passes; these are answers.
_FINAL_CODES = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.OUT_OF_RANGE,
    }
)
_RENDITIONS = {
    "thumb_256": media_pb2.RENDITION_KIND_THUMB_256,
    "thumb_1024": media_pb2.RENDITION_KIND_THUMB_1024,
    "poster": media_pb2.RENDITION_KIND_POSTER,
    "clip": media_pb2.RENDITION_KIND_CLIP,
}
_OFFERED = re.compile(r"[0-9a-f]{32}")
_T = TypeVar("_T")
_Mode = Literal["wb", "ab"]

log = get_logger(__name__)


class TransferFailed(Exception):
    """Bytes could not be moved. `retryable` tells whether it may work later; the message is a sentence for the log."""

    def __init__(self, message: str, *, retryable: bool) -> None:
        super().__init__(message)
        self.retryable = retryable


@dataclass(frozen=True, slots=True)
class Patience:
    """How long one file is tried without moving forward, and the pauses between."""

    limit: timedelta = timedelta(minutes=2)
    first_pause_s: float = _FIRST_PAUSE_S


class Transfers:
    """Uploads and reads for one lease."""

    def __init__(
        self, channel: grpc.aio.Channel, token: str, patience: Patience, *, handover: Path | None = None
    ) -> None:
        """Speak to the asset service behind `channel` with the lease's token.

        Large files go through the folder `handover` if the service finds it to be its own.
        """
        self._stub = UploadServiceStub(channel)
        self._metadata = (("atelier-lease-token", token),)
        self._patience = patience
        self._takes_whole = True
        self._handover = handover

    async def upload_output(self, asset_index: int, path: Path, renditions: Mapping[str, Path]) -> str:
        """Upload one output with its renditions and return the receipt.

        A rendition that is refused is left out: it can be made again from the output.

        Raises:
            TransferFailed: the output is not stored.
        """
        receipt = await self._upload_whole(asset_index, path, renditions)
        if receipt is not None:
            crash.reach("worker.upload.finished")
            return receipt
        upload_id = await self._upload_file(asset_index, media_pb2.RENDITION_KIND_UNSPECIFIED, path)
        rendition_ids: list[str] = []
        for kind, file in renditions.items():
            try:
                rendition_ids.append(await self._upload_file(asset_index, _RENDITIONS[kind], file))
            except TransferFailed as error:
                if error.retryable:
                    raise
                log.warning("rendition_refused", asset_index=asset_index, rendition=kind, error=str(error))
        request = pb.FinishUploadRequest(upload_id=upload_id, rendition_upload_ids=rendition_ids)

        async def finish(_: Callable[[], None]) -> str:
            reply = await self._stub.FinishUpload(request, metadata=self._metadata, timeout=_CALL_LIMIT_S)
            return reply.receipt

        receipt = await self._persist(finish)
        crash.reach("worker.upload.finished")
        return receipt

    async def read_reference(self, asset_id: str, media: media_pb2.Media, path: Path) -> None:
        """Write the bytes of a reference to a file, and check that they are those that the lease describes.

        Raises:
            TransferFailed: they cannot be read, or are others.
        """

        async def read(_: Callable[[], None]) -> str:
            request = pb.ReadReferenceRequest(asset_id=asset_id)
            call = self._stub.ReadReference(request, metadata=self._metadata)
            sha256 = hashlib.sha256()
            mode: _Mode = "wb"
            try:
                async with asyncio.timeout(_CALL_LIMIT_S):
                    async for piece in call:
                        await asyncio.to_thread(_append, path, piece.data, sha256, mode)
                        mode = "ab"
            except TimeoutError:
                raise TransferFailed("The reference did not arrive in time.", retryable=True) from None
            finally:
                call.cancel()
            return sha256.hexdigest()

        if await self._persist(read) != media.sha256:
            raise TransferFailed(f"The bytes of the reference {asset_id} are not those it had.", retryable=False)

    async def _upload_whole(self, asset_index: int, path: Path, renditions: Mapping[str, Path]) -> str | None:
        """Upload a small output with one message. Returns None when it must go file by file."""
        files = {media_pb2.RENDITION_KIND_UNSPECIFIED: path} | {
            _RENDITIONS[kind]: renditions[kind] for kind in renditions
        }
        request = await asyncio.to_thread(_whole, asset_index, files)
        if request is None or not self._takes_whole:
            return None

        async def send(_: Callable[[], None]) -> str | None:
            try:
                reply = await self._stub.UploadOutput(request, metadata=self._metadata, timeout=_CALL_LIMIT_S)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    # A service of an earlier release.
                    self._takes_whole = False
                    return None
                if renditions and error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                    # Perhaps only a rendition is refused: file by file it can be left out.
                    return None
                raise
            return reply.receipt

        return await self._persist(send)

    async def _upload_file(self, asset_index: int, rendition: media_pb2.RenditionKind.ValueType, path: Path) -> str:
        sha256, size_bytes = await asyncio.to_thread(digest, path)
        start = pb.StartUploadRequest(
            asset_index=asset_index, rendition=rendition, size_bytes=size_bytes, sha256=sha256
        )
        reached = 0
        if self._handover is not None:
            start.handover = await asyncio.to_thread(self._handover.is_dir)

        async def send(moved: Callable[[], None]) -> str:
            nonlocal reached
            found = await self._stub.StartUpload(start, metadata=self._metadata, timeout=_CALL_LIMIT_S)
            received = found.received_bytes
            if found.handover_name:
                # Whatever becomes of it, the next try is with messages.
                start.handover = False
                received = await self._hand_over(found, path)
            while True:
                if received > reached:
                    reached = received
                    moved()
                if received >= size_bytes:
                    return found.upload_id
                received = await self._write(found.upload_id, path, received)

        return await self._persist(send)

    async def _hand_over(self, found: pb.StartUploadResponse, path: Path) -> int:
        """Write a file where the service can take it. Returns how many bytes it has then: none if that did not work."""
        if self._handover is None or not _OFFERED.fullmatch(found.handover_name):
            return 0
        try:
            await asyncio.to_thread(_fill, self._handover / found.handover_name, path)
            request = pb.CollectUploadRequest(upload_id=found.upload_id)
            reply = await self._stub.CollectUpload(request, metadata=self._metadata, timeout=_CALL_LIMIT_S)
        except OSError as error:
            log.info("handover_failed", error=type(error).__name__)
            return 0
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
                raise
            # It may have come to another replica. Whether the job is settled is said again to the first message.
            log.info("handover_failed", error=error.details())
            return 0
        return reply.received_bytes

    async def _write(self, upload_id: str, path: Path, offset: int) -> int:
        """Send one chunk. Returns how many bytes the service has on its disk."""
        call = self._stub.WriteUpload(_pieces(upload_id, path, offset), metadata=self._metadata)
        try:
            async with asyncio.timeout(_CALL_LIMIT_S):
                return (await call).received_bytes
        except TimeoutError:
            raise TransferFailed("The asset service took too long to take the bytes.", retryable=True) from None
        finally:
            call.cancel()

    async def _persist(self, attempt: Callable[[Callable[[], None]], Awaitable[_T]]) -> _T:
        """Try until it works, is refused, or has not moved forward for the limit of patience."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._patience.limit.total_seconds()
        pause_s = self._patience.first_pause_s

        def moved() -> None:
            nonlocal give_up_at, pause_s
            pause_s = self._patience.first_pause_s
            give_up_at = loop.time() + self._patience.limit.total_seconds()

        while True:
            try:
                return await attempt(moved)
            except grpc.aio.AioRpcError as error:
                failed = _as_failure(error)
            except TransferFailed as error:
                failed = error
            if not failed.retryable or loop.time() + pause_s > give_up_at:
                raise failed
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)


def digest(path: Path) -> tuple[str, int]:
    """Return the SHA-256 in lower-case hexadecimal and the size in bytes of a file."""
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256")
    return sha256.hexdigest(), path.stat().st_size


def _whole(asset_index: int, files: Mapping[media_pb2.RenditionKind.ValueType, Path]) -> pb.UploadOutputRequest | None:
    """Return an output with its renditions as one message; None when it is too large for that."""
    if sum(path.stat().st_size for path in files.values()) > WHOLE_BYTES:
        return None
    request = pb.UploadOutputRequest(asset_index=asset_index)
    for rendition, path in files.items():
        data = path.read_bytes()
        request.files.add(rendition=rendition, sha256=hashlib.sha256(data).hexdigest(), data=data)
    return request


async def _pieces(upload_id: str, path: Path, offset: int) -> AsyncIterator[pb.WriteUploadRequest]:
    end = offset + CHUNK_BYTES
    while data := await asyncio.to_thread(_read_piece, path, offset, min(_PIECE_BYTES, end - offset)):
        yield pb.WriteUploadRequest(upload_id=upload_id, offset=offset, data=data)
        upload_id = ""
        offset += len(data)


def _fill(offered: Path, path: Path) -> None:
    """Write a file into one that is there already: it has another name in any other folder."""
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        target = os.open(offered, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            copy_bytes(source, target, os.fstat(source).st_size)
        finally:
            os.close(target)
    finally:
        os.close(source)


# A call may be cancelled while its thread works, so no file stays open between two pieces.
def _read_piece(path: Path, offset: int, length: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek(offset)
        return stream.read(length)


def _append(path: Path, data: bytes, sha256: hashlib._Hash, mode: _Mode) -> None:
    with path.open(mode, buffering=0) as stream:
        rest = memoryview(data)
        while rest:
            rest = rest[stream.write(rest) :]
    sha256.update(data)


def _as_failure(error: grpc.aio.AioRpcError) -> TransferFailed:
    known = from_rpc_error(error)
    final = error.code() in _FINAL_CODES or known.reason in (ErrorReason.ALREADY_SETTLED, ErrorReason.BODY_TOO_LARGE)
    return TransferFailed(known.message, retryable=not final)
