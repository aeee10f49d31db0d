"""Small outputs on their way to the asset service, those that are ready at the same time in one message.

A call costs the service and the worker more than the bytes of a small output do. So one that comes while others are
under way waits for one of their calls to end, and goes with whatever else has come until then.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc
from google.rpc import code_pb2, status_pb2

from atelier.asset.v1 import upload_service_pb2 as pb
from atelier.asset.v1.upload_service_pb2_grpc import UploadServiceStub
from service_kit.rpc_errors import DETAILS_KEY

CALL_LIMIT_S = 60.0
CALLS_AT_ONCE = 2
MOST_TOGETHER = 16
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
class _Waiting:
    token: str = field(repr=False)
    request: pb.UploadOutputRequest
    size_bytes: int
    receipt: asyncio.Future[str]

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("atelier-lease-token", self.token),)


class WholeOutputs:
    """Sends the small outputs of all leases of a worker over one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = UploadServiceStub(channel)
        self._takes_several = True
        self._waiting: deque[_Waiting] = deque()
        self._calls: set[asyncio.Task[None]] = set()

    async def send(self, token: str, request: pb.UploadOutputRequest, *, alone: bool = False) -> str:
        """Upload an output under a lease's token and return its receipt; `alone` after a failure that others share.

        Raises:
            AioRpcError: the call failed, or the output was refused; others that travelled with it perhaps were not.
        """
        size_bytes = sum(len(file.data) for file in request.files)
        item = _Waiting(token, request, size_bytes, asyncio.get_running_loop().create_future())
        if alone or not self._takes_several or len(self._calls) < CALLS_AT_ONCE:
            self._call([item])
        else:
            self._waiting.append(item)
        return await item.receipt

    async def close(self) -> None:
        """Break off what is under way; whoever waits for it is cancelled."""
        for item in self._waiting:
            item.receipt.cancel()
        self._waiting.clear()
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    def _call(self, items: Sequence[_Waiting]) -> None:
        call = asyncio.create_task(self._send(items), name="outputs")
        self._calls.add(call)
        call.add_done_callback(self._ended)

        def look(_: asyncio.Future[str]) -> None:
            if all(item.receipt.cancelled() for item in items):
                # Nobody waits for it any more.
                call.cancel()

        for item in items:
            item.receipt.add_done_callback(look)

    def _ended(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        while self._waiting and len(self._calls) < CALLS_AT_ONCE:
            # Perhaps nobody waits for any of them any more.
            if items := self._take():
                self._call(items)

    def _take(self) -> list[_Waiting]:
        items: list[_Waiting] = []
        size_bytes = 0
        while self._waiting and len(items) < MOST_TOGETHER:
            item = self._waiting[0]
            if items and (size_bytes + item.size_bytes > MOST_BYTES_TOGETHER or not self._takes_several):
                break
            self._waiting.popleft()
            if not item.receipt.done():
                items.append(item)
                size_bytes += item.size_bytes
        return items

    async def _send(self, items: Sequence[_Waiting]) -> None:
        try:
            if len(items) == 1:
                await self._send_one(items[0])
            else:
                await self._send_several(items)
        except grpc.aio.AioRpcError as error:
            for item in items:
                if not item.receipt.done():
                    item.receipt.set_exception(error)
        except BaseException:
            for item in items:
                item.receipt.cancel()
            raise

    async def _send_one(self, item: _Waiting) -> None:
        reply = await self._stub.UploadOutput(item.request, metadata=item.metadata, timeout=CALL_LIMIT_S)
        if not item.receipt.done():
            item.receipt.set_result(reply.receipt)

    async def _send_several(self, items: Sequence[_Waiting]) -> None:
        request = pb.UploadOutputsRequest(
            outputs=[pb.LeasedOutput(lease_token=item.token, output=item.request) for item in items]
        )
        try:
            reply = await self._stub.UploadOutputs(request, metadata=items[0].metadata, timeout=CALL_LIMIT_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                # A service of an earlier release.
                self._takes_several = False
            elif error.code() not in _REFUSED:
                raise
            await asyncio.gather(*(self._send([item]) for item in items))
            return
        if len(reply.answers) != len(items):
            said = f"The asset service answered for {len(reply.answers)} of {len(items)} outputs; send them again."
            raise _as_if_alone(status_pb2.Status(code=code_pb2.INTERNAL, message=said))
        for item, answer in zip(items, reply.answers, strict=True):
            if item.receipt.done():
                continue
            if answer.HasField("refused"):
                item.receipt.set_exception(_as_if_alone(answer.refused))
            else:
                item.receipt.set_result(answer.stored.receipt)


def _as_if_alone(refused: status_pb2.Status) -> grpc.aio.AioRpcError:
    """Return the error with which the call would have ended, had the output been alone in it."""
    trailing = grpc.aio.Metadata((DETAILS_KEY, refused.SerializeToString()))
    return grpc.aio.AioRpcError(_CODES[refused.code], grpc.aio.Metadata(), trailing, details=refused.message)
