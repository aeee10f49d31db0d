"""Moves bytes between a task's folder and the asset service, under the lease token: outputs out, references in."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import grpc

from atelier.asset.v1 import upload_service_pb2 as pb
from atelier.asset.v1.upload_service_pb2_grpc import UploadServiceStub
from atelier.type.v1 import media_pb2
from atelier_worker import shared_folder
from atelier_worker.patience import Patience, TransferFailed
from atelier_worker.whole_outputs import WholeOutputs
from atelier_worker.whole_references import WholeReferences
from service_kit import crash
from service_kit.errors import ErrorReason
from service_kit.rpc_errors import from_rpc_error
from service_kit.telemetry import get_logger

if TYPE_CHECKING:
    from atelier.asset.v1.upload_service_pb2_grpc import UploadServiceAsyncStub

CHUNK_BYTES = 16 << 20
"""How much of a file is sent before the service has said that it has it: the most that a break sends again."""
_PIECE_BYTES = 1 << 20
_HANDED_OVER_BYTES = 2 << 20
"""From this size on a reference is handed over as a file, where the asset service is on the same machine."""
_READ_AGAIN_BYTES = 8 << 20
"""Up to this size such a file is read again, and its digest compared: that takes milliseconds."""
_CALL_LIMIT_S = 60.0
_RENDITIONS = {
    "thumb_256": media_pb2.RENDITION_KIND_THUMB_256,
    "thumb_1024": media_pb2.RENDITION_KIND_THUMB_1024,
    "poster": media_pb2.RENDITION_KIND_POSTER,
    "clip": media_pb2.RENDITION_KIND_CLIP,
}
_Mode = Literal["wb", "ab"]

log = get_logger(__name__)


class Transfers:
    """Uploads and reads for one lease."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        token: str,
        patience: Patience,
        *,
        handover: Path | None = None,
        whole_outputs: WholeOutputs | None = None,
        whole_references: WholeReferences | None = None,
    ) -> None:
        """Speak to the asset service behind `channel` with the lease's token.

        Large files go through the folder `handover` if the service finds it to be its own; small ones with those of the
        other leases that share `whole_outputs` and `whole_references`.
        """
        self._channel = channel
        self._token = token
        self._metadata = (("atelier-lease-token", token),)
        self._whole_outputs = whole_outputs or WholeOutputs(channel)
        self._whole_references = whole_references or WholeReferences(channel)
        self._patience = patience
        self._takes_whole = True
        self._handover = handover

    @cached_property
    def _stub(self) -> UploadServiceAsyncStub:
        """The calls of the service, made for the leases that need them: a text does not."""
        return UploadServiceStub(self._channel)

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
        async with self._linked(asset_index, path) as linked:
            upload_id = linked or await self._upload_output_file(asset_index, path)
            rendition_ids = await self._upload_renditions(asset_index, renditions)
            finished = await self._finish(upload_id, rendition_ids, linked=linked is not None)
        if finished is None:
            # The link was of no use.
            upload_id = await self._upload_output_file(asset_index, path)
            finished = await self._finish(upload_id, rendition_ids)
        if finished is None:
            raise TransferFailed("The asset service gave no receipt.", retryable=True)
        crash.reach("worker.upload.finished")
        return finished.receipt

    async def _upload_output_file(self, asset_index: int, path: Path) -> str:
        return await self._upload_file(asset_index, media_pb2.RENDITION_KIND_UNSPECIFIED, path)

    async def _upload_renditions(self, asset_index: int, renditions: Mapping[str, Path]) -> list[str]:
        rendition_ids: list[str] = []
        for kind, file in renditions.items():
            try:
                rendition_ids.append(await self._upload_file(asset_index, _RENDITIONS[kind], file))
            except TransferFailed as error:
                if error.retryable:
                    raise
                log.warning("rendition_refused", asset_index=asset_index, rendition=kind, error=str(error))
        return rendition_ids

    async def _finish(
        self, upload_id: str, rendition_ids: Sequence[str], *, linked: bool = False
    ) -> pb.FinishUploadResponse | None:
        """Return what an output is; None when its bytes are to be sent, as the service has no link to them."""
        request = pb.FinishUploadRequest(upload_id=upload_id, rendition_upload_ids=rendition_ids, linked=linked)

        async def finish(_: Callable[[], None]) -> pb.FinishUploadResponse | None:
            try:
                return await self._stub.FinishUpload(request, metadata=self._metadata, timeout=_CALL_LIMIT_S)
            except grpc.aio.AioRpcError as error:
                if not linked or from_rpc_error(error).reason is not ErrorReason.INCOMPLETE_UPLOAD:
                    raise
                log.info("handover_failed", error=error.details())
                return None

        return await self._patience.keep_trying(finish)

    @asynccontextmanager
    async def _linked(self, asset_index: int, path: Path) -> AsyncIterator[str | None]:
        """Begin the upload of a file to which a link lies where the service can take it. Gives None when there is none.

        Nobody but the service digests it, and of its own copy: that this is the file as it was is seen from outside.

        Raises:
            TransferFailed: the file changed meanwhile.
        """
        before = await asyncio.to_thread(shared_folder.look_to_link, path, self._handover)
        if self._handover is None or before is None or not before.size_bytes:
            yield None
            return
        start = pb.StartUploadRequest(asset_index=asset_index, size_bytes=before.size_bytes, handover=True)
        try:
            found = await self._stub.StartUpload(start, metadata=self._metadata, timeout=_CALL_LIMIT_S)
        except grpc.aio.AioRpcError as error:
            # A service of an earlier release wants a digest. Whatever else it is will be said again.
            log.debug("link_not_taken", error=error.details())
            found = pb.StartUploadResponse()
        if not shared_folder.is_offered(found.handover_name):
            yield None
            return
        link = await asyncio.to_thread(shared_folder.link, path, self._handover / found.handover_name)
        try:
            yield found.upload_id if link else None
            if link and await asyncio.to_thread(shared_folder.look, path) != before:
                raise TransferFailed(
                    f"The file of output {asset_index} changed while it was uploaded; deliver files that are finished.",
                    retryable=True,
                )
        finally:
            if link:
                await asyncio.shield(asyncio.to_thread(shared_folder.remove, link))

    async def read_reference(self, asset_id: str, media: media_pb2.Media, path: Path) -> None:
        """Write the bytes of a reference to a file, and check that they are those that the lease describes.

        Raises:
            TransferFailed: they cannot be read, or are others.
        """
        folder = self._handover if media.size_bytes >= _HANDED_OVER_BYTES else None

        async def read(_: Callable[[], None]) -> str:
            place = None if folder is None else await asyncio.to_thread(shared_folder.make_empty, folder)
            request = pb.ReadReferenceRequest(asset_id=asset_id, handover_name=place.name if place else "")
            call = self._stub.ReadReference(request, metadata=self._metadata)
            try:
                async with asyncio.timeout(_CALL_LIMIT_S):
                    return await _receive(call, media, path, place)
            except TimeoutError:
                raise TransferFailed("The reference did not arrive in time.", retryable=True) from None
            except OSError as error:
                # There is no room, perhaps for a moment only.
                raise TransferFailed(f"The reference could not be written: {error.strerror}.", retryable=True) from None
            finally:
                call.cancel()
                if place is not None:
                    await asyncio.shield(asyncio.to_thread(shared_folder.remove, place))

        sha256 = await self._whole_references.read(self._token, asset_id, media.size_bytes, path)
        if sha256 is None:
            sha256 = await self._patience.keep_trying(read)
        if sha256 != media.sha256:
            raise TransferFailed(f"The bytes of the reference {asset_id} are not those it had.", retryable=False)

    async def _upload_whole(self, asset_index: int, path: Path, renditions: Mapping[str, Path]) -> str | None:
        """Upload a small output with one message. Returns None when it must go file by file."""
        if not self._takes_whole:
            return None
        files = {media_pb2.RENDITION_KIND_UNSPECIFIED: path} | {
            _RENDITIONS[kind]: renditions[kind] for kind in renditions
        }
        alone = False

        async def send(_: Callable[[], None]) -> str | None:
            nonlocal alone
            try:
                return await self._whole_outputs.send(self._token, asset_index, files, alone=alone)
            except grpc.aio.AioRpcError as error:
                # What harms one in such a call harms no other twice.
                alone = True
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    # A service of an earlier release.
                    self._takes_whole = False
                    return None
                if renditions and error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                    # Perhaps only a rendition is refused: file by file it can be left out.
                    return None
                raise

        return await self._patience.keep_trying(send)

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

        return await self._patience.keep_trying(send)

    async def _hand_over(self, found: pb.StartUploadResponse, path: Path) -> int:
        """Write a file where the service can take it. Returns how many bytes it has then: none if that did not work."""
        if self._handover is None or not shared_folder.is_offered(found.handover_name):
            return 0
        try:
            await asyncio.to_thread(shared_folder.fill, self._handover / found.handover_name, path)
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


def digest(path: Path) -> tuple[str, int]:
    """Return the SHA-256 in lower-case hexadecimal and the size in bytes of a file."""
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256")
    return sha256.hexdigest(), path.stat().st_size


async def _pieces(upload_id: str, path: Path, offset: int) -> AsyncIterator[pb.WriteUploadRequest]:
    end = offset + CHUNK_BYTES
    while data := await asyncio.to_thread(_read_piece, path, offset, min(_PIECE_BYTES, end - offset)):
        yield pb.WriteUploadRequest(upload_id=upload_id, offset=offset, data=data)
        upload_id = ""
        offset += len(data)


# A call may be cancelled while its thread works, so no file stays open between two pieces.
def _read_piece(path: Path, offset: int, length: int) -> bytes:
    with path.open("rb") as stream:
        stream.seek(offset)
        return stream.read(length)


async def _receive(
    messages: AsyncIterable[pb.ReadReferenceResponse], media: media_pb2.Media, path: Path, place: Path | None
) -> str:
    """Write a reference to a file, from messages or from the place that the service has filled.

    Returns:
        The SHA-256 of what came: over the wire, or in a file that is read at once. Of a larger file it is the one that
        the service found when it stored the bytes: another digest would tell of nothing but a broken disk, which
        `atelier sweep --verify` looks for.
    """
    sha256 = hashlib.sha256()
    mode: _Mode = "wb"
    async for message in messages:
        if message.handed_over_sha256 and place is not None:
            size_bytes = await asyncio.to_thread(shared_folder.move_out, place, path)
            if size_bytes != media.size_bytes:
                return ""
            if size_bytes > _READ_AGAIN_BYTES:
                return message.handed_over_sha256
            return (await asyncio.to_thread(digest, path))[0]
        await asyncio.to_thread(_append, path, message.data, sha256, mode)
        mode = "ab"
    return sha256.hexdigest()


def _append(path: Path, data: bytes, sha256: hashlib._Hash, mode: _Mode) -> None:
    with path.open(mode, buffering=0) as stream:
        rest = memoryview(data)
        while rest:
            rest = rest[stream.write(rest) :]
    sha256.update(data)
