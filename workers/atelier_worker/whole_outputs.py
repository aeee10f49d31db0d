"""Small outputs on their way to the asset service, those that are ready at the same time in one message."""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from google.rpc import code_pb2, status_pb2

from atelier.asset.v1 import upload_service_pb2 as pb
from atelier.asset.v1.upload_service_pb2_grpc import UploadServiceStub
from atelier.type.v1 import media_pb2
from atelier_worker.together import MOST_TOGETHER, Together, Waiting
from service_kit.rpc_errors import DETAILS_KEY

WHOLE_BYTES = 8 << 20
"""Up to this size an output goes with its renditions in one message, and is sent anew when the call breaks off."""
_WHOLE_FILE_BYTES = 4 << 20
MOST_BYTES_TOGETHER = 4 << 20
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


class WholeOutputs:
    """Sends the small outputs of all leases of a worker over one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = UploadServiceStub(channel)
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

    async def _send(self, items: list[_Waiting]) -> None:
        request, found = await asyncio.to_thread(_read, [item.what for item in items])
        self._together.put_back(items, len(found))
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
        if len(going) == 1:
            await self._send_one(going[0], request.outputs[0].output)
        elif going:
            await self._send_several(going, request)

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


def _read(outputs: Sequence[_Output]) -> tuple[pb.UploadOutputsRequest, list[_Read]]:
    """Read as many of the outputs as go with one message.

    Returns:
        The message, and of each output, up to the first for which there is no room any more: its part of the message,
        None for one that is too large for any, or why it cannot be read.
    """
    request = pb.UploadOutputsRequest()
    found: list[_Read] = []
    left_bytes = MOST_BYTES_TOGETHER
    for output in outputs:
        try:
            sizes = [path.stat().st_size for path in output.files.values()]
            if max(sizes) > _WHOLE_FILE_BYTES or sum(sizes) > WHOLE_BYTES:
                found.append(None)
                continue
            if request.outputs and sum(sizes) > left_bytes:
                break
            left_bytes -= sum(sizes)
            files = {rendition: path.read_bytes() for rendition, path in output.files.items()}
        except (OSError, ValueError) as error:
            found.append(error)
            continue
        part = request.outputs.add(lease_token=output.token).output
        part.asset_index = output.asset_index
        for rendition, data in files.items():
            part.files.add(rendition=rendition, sha256=hashlib.sha256(data).hexdigest(), data=data)
        found.append(part)
    return request, found


def _as_if_alone(refused: status_pb2.Status) -> grpc.aio.AioRpcError:
    """Return the error with which the call would have ended, had the output been alone in it."""
    trailing = grpc.aio.Metadata((DETAILS_KEY, refused.SerializeToString()))
    return grpc.aio.AioRpcError(_CODES[refused.code], grpc.aio.Metadata(), trailing, details=refused.message)
