"""Small outputs on their way to the asset service, those that are ready at the same time in one message."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc
from google.rpc import code_pb2, status_pb2

from atelier.asset.v1 import upload_service_pb2 as pb
from atelier.asset.v1.upload_service_pb2_grpc import UploadServiceStub
from atelier_worker.together import Together, Waiting
from service_kit.rpc_errors import DETAILS_KEY

CALL_LIMIT_S = 60.0
MOST_BYTES_TOGETHER = 4 << 20
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
    request: pb.UploadOutputRequest

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("atelier-lease-token", self.token),)


_Waiting = Waiting[_Output, str]


class WholeOutputs:
    """Sends the small outputs of all leases of a worker over one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = UploadServiceStub(channel)
        self._together = Together[_Output, str]("outputs", self._send, most_bytes=MOST_BYTES_TOGETHER)

    async def send(self, token: str, request: pb.UploadOutputRequest, *, alone: bool = False) -> str:
        """Upload an output under a lease's token and return its receipt; `alone` after a failure that others share.

        Raises:
            AioRpcError: the call failed, or the output was refused; others that travelled with it perhaps were not.
        """
        size_bytes = sum(len(file.data) for file in request.files)
        return await self._together.go(_Output(token, request), size_bytes, alone=alone)

    async def close(self) -> None:
        """Break off what is under way; whoever waits for it is cancelled."""
        await self._together.close()

    async def _send(self, items: Sequence[_Waiting]) -> None:
        if len(items) == 1:
            await self._send_one(items[0])
        else:
            await self._send_several(items)

    async def _send_one(self, item: _Waiting) -> None:
        reply = await self._stub.UploadOutput(item.what.request, metadata=item.what.metadata, timeout=CALL_LIMIT_S)
        if not item.answer.done():
            item.answer.set_result(reply.receipt)

    async def _send_several(self, items: Sequence[_Waiting]) -> None:
        request = pb.UploadOutputsRequest(
            outputs=[pb.LeasedOutput(lease_token=item.what.token, output=item.what.request) for item in items]
        )
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


def _as_if_alone(refused: status_pb2.Status) -> grpc.aio.AioRpcError:
    """Return the error with which the call would have ended, had the output been alone in it."""
    trailing = grpc.aio.Metadata((DETAILS_KEY, refused.SerializeToString()))
    return grpc.aio.AioRpcError(_CODES[refused.code], grpc.aio.Metadata(), trailing, details=refused.message)
