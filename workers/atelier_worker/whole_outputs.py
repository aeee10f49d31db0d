"""Small outputs on their way to the asset service, those that are ready at the same time in one message."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from google.rpc import code_pb2, status_pb2

from atelier.asset.v1 import upload_service_pb2 as pb
from atelier.asset.v1.upload_service_pb2_grpc import UploadServiceStub
from atelier.type.v1 import media_pb2
from atelier_worker.handover_files import HandoverFile, HandoverFiles
from atelier_worker.together import MOST_TOGETHER, Together, Waiting
from service_kit.errors import ErrorReason
from service_kit.finishing import to_the_end
from service_kit.rpc_errors import DETAILS_KEY, from_rpc_error
from service_kit.telemetry import get_logger

log = get_logger(__name__)

WHOLE_BYTES = 8 << 20
"""Up to this size an output goes with its renditions in one message, and is sent anew when the call breaks off."""
_WHOLE_FILE_BYTES = 4 << 20
MOST_BYTES_TOGETHER = 4 << 20
_HANDED_OVER_BYTES = 256 << 10
"""Fewer go in the message: a file costs more than it saves."""
_REST_S = 600.0
CALL_LIMIT_S = 60.0
# The whole call is refused for one output in it, or for the lease that it is made under: nobody would try again.
_REFUSED = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNAUTHENTICATED,
)
_CODES = defaultdict(lambda: grpc.StatusCode.UNKNOWN, {code.value[0]: code for code in grpc.StatusCode})


@dataclass(frozen=True, slots=True)
class _Output:
    token: str = field(repr=False)
    asset_index: int
    files: Mapping[media_pb2.RenditionKind.ValueType, Path]

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("atelier-lease-token", self.token),)


_Waiting = Waiting[_Output, str | None]
_Read = pb.UploadOutputRequest | OSError | ValueError | None


@dataclass(frozen=True, slots=True)
class _Message:
    """A message with outputs: the first of those that were to go.

    `found` has of each its part of the message, None for one that is too large for any, or why it cannot be read.
    `file` is where their bytes are, if they are not in the message.
    """

    request: pb.UploadOutputsRequest
    found: list[_Read]
    file: HandoverFile | None = None


class WholeOutputs:
    """Sends the small outputs of all leases of a worker over one channel."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        *,
        handover: Path | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Send over a channel, and bytes through the folder `handover` if the service finds it to be its own.

        `now` is in seconds.
        """
        self._stub = UploadServiceStub(channel)
        self._files = None if handover is None else HandoverFiles(handover)
        self._now = now
        self._handed_over_from = 0.0
        # A call costs the service two transactions, however many are in it.
        self._together = Together[_Output, str | None]("outputs", self._send, divided_from=MOST_TOGETHER + 1)

    async def send(
        self,
        token: str,
        asset_index: int,
        files: Mapping[media_pb2.RenditionKind.ValueType, Path],
        *,
        alone: bool = False,
    ) -> str | None:
        """Upload an output with its renditions under a lease's token; `alone` after a failure that others share.

        The files are read when the call is made with which they go: no more of them are in memory than go at once.

        Returns:
            The receipt; None when the output is too large for one message.

        Raises:
            AioRpcError: the call failed, or the output was refused; others that travelled with it perhaps were not.
            OSError: a file cannot be read.
        """
        return await self._together.go(_Output(token, asset_index, files), alone=alone)

    async def close(self) -> None:
        """Break off what is under way; whoever waits for it is cancelled."""
        await self._together.close()
        if self._files is not None:
            await asyncio.to_thread(self._files.close)

    async def _send(self, items: list[_Waiting]) -> None:
        message = await self._read([item.what for item in items])
        # None of these any more, whatever becomes of the call.
        self._together.put_back(items, len(message.found))
        going = _going(items, message.found)
        if message.file is not None:
            if await self._hand_over(going, message.request, message.file):
                return
            if len(going) > 1:
                await self._together.each_alone(going)
                return
            message = await asyncio.to_thread(_in_message, [item.what for item in going])
            going = _going(going, message.found)
        if len(going) == 1:
            await self._send_one(going[0], message.request.outputs[0].output)
        elif going:
            await self._send_several(going, message.request)

    async def _read(self, outputs: Sequence[_Output]) -> _Message:
        files = self._files if self._now() >= self._handed_over_from else None
        reading = asyncio.ensure_future(asyncio.to_thread(_read, outputs, files))
        try:
            return await to_the_end(reading)
        except asyncio.CancelledError:
            # Nobody else would remove the file that a thread has written meanwhile.
            self._forget(reading)
            raise

    def _forget(self, reading: asyncio.Future[_Message]) -> None:
        if self._files is None or reading.cancelled() or reading.exception() is not None:
            return
        if (file := reading.result().file) is not None:
            self._files.discard(file)

    async def _hand_over(self, items: Sequence[_Waiting], request: pb.UploadOutputsRequest, file: HandoverFile) -> bool:
        """Send outputs whose bytes are in a file. Returns False when their bytes must go as messages."""
        answered = False
        try:
            reply = await self._stub.UploadOutputs(request, metadata=items[0].what.metadata, timeout=CALL_LIMIT_S)
            answered = True
        except grpc.aio.AioRpcError as error:
            if error.code() not in (*_REFUSED, grpc.StatusCode.UNIMPLEMENTED):
                raise
            self._rest_if_of_no_use(error)
            return False
        finally:
            if self._files is not None:
                leave = self._files.give_back if answered else self._files.discard
                await asyncio.shield(asyncio.to_thread(leave, file))
        _give_answers(items, reply)
        return True

    def _rest_if_of_no_use(self, error: grpc.aio.AioRpcError) -> None:
        """Hand nothing over for a while if the service has another folder, or never heard of it."""
        known = from_rpc_error(error)
        # One of an earlier release does not know the call, or misses the bytes. Whatever else is wrong is so with an
        # output or a lease, and is said again, to whom it concerns.
        is_earlier = error.code() is grpc.StatusCode.UNIMPLEMENTED or any(
            problem.field.rpartition(".")[2] == "data" for problem in known.fields
        )
        if not is_earlier and known.reason is not ErrorReason.INCOMPLETE_UPLOAD:
            return
        log.info("outputs_not_handed_over", error=error.details())
        self._handed_over_from = self._now() + _REST_S

    async def _send_one(self, item: _Waiting, request: pb.UploadOutputRequest) -> None:
        reply = await self._stub.UploadOutput(request, metadata=item.what.metadata, timeout=CALL_LIMIT_S)
        if not item.answer.done():
            item.answer.set_result(reply.receipt)

    async def _send_several(self, items: Sequence[_Waiting], request: pb.UploadOutputsRequest) -> None:
        try:
            reply = await self._stub.UploadOutputs(request, metadata=items[0].what.metadata, timeout=CALL_LIMIT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                # A service of an earlier release.
                self._together.several = False
            elif error.code() not in _REFUSED:
                raise
            await self._together.each_alone(items)
            return
        _give_answers(items, reply)


def _give_answers(items: Sequence[_Waiting], reply: pb.UploadOutputsResponse) -> None:
    """Tell whoever still waits what became of its output. Raises AioRpcError when it is not known."""
    if len(reply.answers) != len(items):
        said = f"The asset service answered for {len(reply.answers)} of {len(items)} outputs; send them again."
        raise _as_if_alone(status_pb2.Status(code=code_pb2.INTERNAL, message=said))
    for item, answer in zip(items, reply.answers, strict=True):
        if item.answer.done():
            continue
        if answer.HasField("refused"):
            item.answer.set_exception(_as_if_alone(answer.refused))
        else:
            item.answer.set_result(answer.stored.receipt)


def _going(items: Sequence[_Waiting], found: Sequence[_Read]) -> list[_Waiting]:
    """Return those that are in the message, and tell the others why they are not."""
    going: list[_Waiting] = []
    for item, output in zip(items, found, strict=True):
        if isinstance(output, pb.UploadOutputRequest):
            going.append(item)
        elif item.answer.done():
            continue
        elif output is None:
            item.answer.set_result(None)
        else:
            item.answer.set_exception(output)
    return going


def _read(outputs: Sequence[_Output], files: HandoverFiles | None) -> _Message:
    """Make a message with as many of the outputs as go with one: their bytes beside it, where that works."""
    return (_beside(outputs, files) if files is not None else None) or _in_message(outputs)


def _beside(outputs: Sequence[_Output], files: HandoverFiles) -> _Message | None:
    """Make a message of outputs whose bytes are handed over. None where that is not worth it, or does not work."""
    request = pb.UploadOutputsRequest()
    found: list[_Read] = []
    parts: list[tuple[Path, int]] = []
    for output, sizes in _fitting(outputs):
        if not isinstance(sizes, list):
            found.append(sizes)
            continue
        part = request.outputs.add(lease_token=output.token).output
        part.asset_index = output.asset_index
        for (rendition, path), size_bytes in zip(output.files.items(), sizes, strict=True):
            # The service digests what it finds: nobody else needs to.
            part.files.add(rendition=rendition, handed_over_bytes=size_bytes)
            parts.append((path, size_bytes))
        found.append(part)
    if sum(size_bytes for _, size_bytes in parts) < _HANDED_OVER_BYTES or not all(size for _, size in parts):
        return None
    file = files.write(parts)
    if file is None:
        return None
    request.handover_name = file.name
    return _Message(request, found, file)


def _in_message(outputs: Sequence[_Output]) -> _Message:
    """Read as many of the outputs as go with one message."""
    request = pb.UploadOutputsRequest()
    found: list[_Read] = []
    for output, sizes in _fitting(outputs):
        if not isinstance(sizes, list):
            found.append(sizes)
            continue
        try:
            files = {rendition: path.read_bytes() for rendition, path in output.files.items()}
        except (OSError, ValueError) as error:
            found.append(error)
            continue
        part = request.outputs.add(lease_token=output.token).output
        part.asset_index = output.asset_index
        for rendition, data in files.items():
            part.files.add(rendition=rendition, sha256=hashlib.sha256(data).hexdigest(), data=data)
        found.append(part)
    return _Message(request, found)


def _fitting(outputs: Sequence[_Output]) -> Iterator[tuple[_Output, list[int] | OSError | ValueError | None]]:
    """Give outputs up to the first for which a message has no room any more, each with the sizes of its files in bytes.

    Or with None for one that is too large for any message, or with why it cannot be read.
    """
    left_bytes = MOST_BYTES_TOGETHER
    for output in outputs:
        try:
            sizes = [path.stat().st_size for path in output.files.values()]
        except (OSError, ValueError) as error:
            yield output, error
            continue
        if max(sizes) > _WHOLE_FILE_BYTES or sum(sizes) > WHOLE_BYTES:
            yield output, None
            continue
        if left_bytes < MOST_BYTES_TOGETHER and sum(sizes) > left_bytes:
            return
        left_bytes -= sum(sizes)
        yield output, sizes


def _as_if_alone(refused: status_pb2.Status) -> grpc.aio.AioRpcError:
    """Return the error with which the call would have ended, had the output been alone in it."""
    trailing = grpc.aio.Metadata((DETAILS_KEY, refused.SerializeToString()))
    return grpc.aio.AioRpcError(_CODES[refused.code], grpc.aio.Metadata(), trailing, details=refused.message)
