"""A router and an asset service for tests: a real gRPC server that records what it hears and says what it is told."""

from __future__ import annotations

import asyncio
import hashlib
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import grpc

from atelier.asset.v1 import upload_service_pb2, upload_service_pb2_grpc
from atelier.identity.v1 import identity_service_pb2, identity_service_pb2_grpc
from atelier.worker.v1 import worker_service_pb2 as pb
from atelier.worker.v1 import worker_service_pb2_grpc
from faults.ports import free_port
from service_kit.errors import AtelierError
from service_kit.rpc_errors import DETAILS_KEY, grpc_code, to_status

LIMIT_S = 30.0
KEY = "atl_0123456789abcdef_secret"


async def within(awaitable: Any) -> Any:
    """Wait for something that must happen; a test that waits longer has failed."""
    async with asyncio.timeout(LIMIT_S):
        return await awaitable


class FakeSession:
    """One stream of one worker, from the router's side."""

    def __init__(self, context: Any, hello: pb.Hello, token: str) -> None:
        self.hello = hello
        self.token = token
        self.heard: list[pb.WorkRequest] = []
        self.closed = asyncio.Event()
        self._context = context
        self._inbox: asyncio.Queue[pb.WorkRequest] = asyncio.Queue()
        self._end: asyncio.Future[grpc.StatusCode | None] = asyncio.get_running_loop().create_future()

    async def serve(self) -> None:
        """Hear the worker until it leaves or `end` is called."""
        reading = asyncio.create_task(self._read())
        try:
            await asyncio.wait((reading, self._end), return_when=asyncio.FIRST_COMPLETED)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            self.closed.set()
        code = self._end.result() if self._end.done() else None
        if code is not None:
            await self._context.abort(code, "the test ends the session")

    async def _read(self) -> None:
        while (message := await self._context.read()) is not grpc.aio.EOF:
            self.heard.append(message)
            self._inbox.put_nowait(message)

    async def say(self, **message: Any) -> None:
        """Send one response: `say(lease=...)`."""
        await self._context.write(pb.WorkResponse(**message))

    async def expect(self, kind: str) -> Any:
        """Return the next message of a kind, passing over others."""
        while True:
            message = await within(self._inbox.get())
            if message.WhichOneof("message") == kind:
                return getattr(message, kind)

    async def report(self, kind: str) -> Any:
        """Return the next report of a kind; others of the same bundle are passed over."""
        while True:
            for report in (await self.expect("reports")).reports:
                if report.WhichOneof("report") == kind:
                    return getattr(report, kind)

    def kinds(self) -> list[str]:
        """Return the kinds of everything that was heard, in order, without reports."""
        kinds = [str(message.WhichOneof("message")) for message in self.heard]
        return [kind for kind in kinds if kind != "reports"]

    def reports(self) -> list[pb.Report]:
        """Return every report that was heard."""
        return [report for message in self.heard for report in message.reports.reports]

    async def answer(
        self, outcome: pb.Outcome, status: pb.OutcomeStatus.ValueType = pb.OUTCOME_STATUS_RECORDED
    ) -> None:
        """Answer an outcome."""
        ack = pb.OutcomeAck(ref=outcome.ref, completion_id=outcome.completion_id, status=status)
        await self.say(outcome_ack=ack)

    def end(self, code: grpc.StatusCode | None = grpc.StatusCode.UNAVAILABLE) -> None:
        """End the stream."""
        if not self._end.done():
            self._end.set_result(code)


class FakeRouter(worker_service_pb2_grpc.WorkerServiceServicer, identity_service_pb2_grpc.IdentityServiceServicer):
    """The router, and beside it on the same port an asset service that takes uploads."""

    def __init__(self) -> None:
        self.welcome = pb.Welcome(session_epoch="1")
        self.welcome.heartbeat_interval.FromTimedelta(timedelta(seconds=10))
        self.refuse_work: grpc.StatusCode | None = None
        self.exchanges = 0
        self.exchanged: asyncio.Queue[int] = asyncio.Queue()
        self.assets = FakeAssets()
        self.target = ""
        self._sessions: asyncio.Queue[FakeSession] = asyncio.Queue()
        self._server: grpc.aio.Server | None = None
        self._open: set[FakeSession] = set()

    async def start(self, port: int | None = None) -> None:
        """Listen on loopback: at a port that the system gives to nobody else while this router is away."""
        server = self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        worker_service_pb2_grpc.add_WorkerServiceServicer_to_server(self, server)
        identity_service_pb2_grpc.add_IdentityServiceServicer_to_server(self, server)
        upload_service_pb2_grpc.add_UploadServiceServicer_to_server(self.assets, server)
        self.target = f"127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port or free_port()}')}"
        self.welcome.upload_endpoint = self.target
        await server.start()

    async def stop(self) -> None:
        """End every session and the server."""
        for session in self._open:
            session.end()
        if self._server is not None:
            await self._server.stop(None)

    async def session(self) -> FakeSession:
        """Return the next session that a worker began."""
        session: FakeSession = await within(self._sessions.get())
        return session

    def no_session(self) -> bool:
        """Tell whether no further session was begun."""
        return self._sessions.empty()

    async def ExchangeKey(self, request: identity_service_pb2.ExchangeKeyRequest, context: Any) -> Any:
        self.exchanges += 1
        self.exchanged.put_nowait(self.exchanges)
        if request.secret != KEY:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "The key is wrong, revoked or expired.")
        return identity_service_pb2.ExchangeKeyResponse(identity_token=f"token-{self.exchanges}")

    async def Work(self, request_iterator: Any, context: Any) -> None:  # type: ignore[override]
        """Take a worker in, and leave the rest to the test."""
        if self.refuse_work is not None:
            await context.abort(self.refuse_work, "Workers of type sdxl may not join with this key.")
        first = await context.read()
        metadata = dict(context.invocation_metadata())
        session = FakeSession(context, first.hello, metadata["authorization"])
        self._open.add(session)
        try:
            await context.write(pb.WorkResponse(welcome=self.welcome))
            self._sessions.put_nowait(session)
            await session.serve()
        finally:
            session.closed.set()
            self._open.discard(session)

    async def CreateKey(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    ListKeys = UpdateKey = RevokeKey = CreateSignInCode = ExchangeSignInCode = GetIdentity = CreateKey
    GetOwnerLimits = PutOwnerLimits = CheckKey = ListRevokedKeys = CreateKey


class FakeAssets(upload_service_pb2_grpc.UploadServiceServicer):
    """Takes uploads and gives references; fails as it is told."""

    def __init__(self) -> None:
        self.bytes: dict[str, bytearray] = {}
        self.finished: list[tuple[int, list[str]]] = []
        self.references: dict[str, bytes] = {}
        self.tokens: set[str] = set()
        self.calls: list[str] = []
        self.failures: dict[str, deque[grpc.StatusCode]] = defaultdict(deque)
        self.refusals: dict[str, AtelierError] = {}
        self.break_writes_after: int | None = None
        self.write_gate: asyncio.Event | None = None
        self.writing = asyncio.Event()
        self.read_gate: asyncio.Event | None = None
        self.reading = asyncio.Event()
        self.refuse_renditions = False
        self._starts: dict[str, upload_service_pb2.StartUploadRequest] = {}

    async def _enter(self, name: str, context: Any) -> None:
        self.calls.append(name)
        self.tokens.add(dict(context.invocation_metadata())["atelier-lease-token"])
        if self.failures[name]:
            await context.abort(self.failures[name].popleft(), f"{name} fails")
        if name in self.refusals:
            error = self.refusals[name]
            details = ((DETAILS_KEY, to_status(error, "r1").SerializeToString()),)
            await context.abort(grpc_code(error), error.message, trailing_metadata=details)

    async def UploadOutput(self, request: Any, context: Any) -> Any:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "an asset service of the first release")

    UploadOutputs = UploadOutput

    async def StartUpload(self, request: upload_service_pb2.StartUploadRequest, context: Any) -> Any:
        await self._enter("StartUpload", context)
        if request.rendition and self.refuse_renditions:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "this is no rendition")
        upload_id = f"{request.asset_index}/{request.rendition}/{request.sha256[:8]}"
        self._starts[upload_id] = request
        received = len(self.bytes.setdefault(upload_id, bytearray()))
        return upload_service_pb2.StartUploadResponse(upload_id=upload_id, received_bytes=received)

    async def WriteUpload(self, request_iterator: AsyncIterator[Any], context: Any) -> Any:
        await self._enter("WriteUpload", context)
        self.writing.set()
        if self.write_gate is not None:
            await self.write_gate.wait()
        upload_id = ""
        async for piece in request_iterator:
            upload_id = upload_id or piece.upload_id
            content = self.bytes[upload_id]
            if piece.offset != len(content):
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"the upload ends at {len(content)}")
            content += piece.data
            if self.break_writes_after is not None and len(content) >= self.break_writes_after:
                self.break_writes_after = None
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection broke")
        return upload_service_pb2.WriteUploadResponse(received_bytes=len(self.bytes.get(upload_id, b"")))

    async def FinishUpload(self, request: upload_service_pb2.FinishUploadRequest, context: Any) -> Any:
        await self._enter("FinishUpload", context)
        for upload_id in [request.upload_id, *request.rendition_upload_ids]:
            start, content = self._starts[upload_id], bytes(self.bytes[upload_id])
            if len(content) != start.size_bytes or hashlib.sha256(content).hexdigest() != start.sha256:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the bytes are not those that were announced")
        index = self._starts[request.upload_id].asset_index
        self.finished.append((index, list(request.rendition_upload_ids)))
        return upload_service_pb2.FinishUploadResponse(receipt=f"receipt-{index}")

    async def ReadReference(self, request: upload_service_pb2.ReadReferenceRequest, context: Any) -> Any:
        await self._enter("ReadReference", context)
        self.reading.set()
        if self.read_gate is not None:
            await self.read_gate.wait()
        content = self.references.get(request.asset_id)
        if content is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, "its bytes are gone")
        for start in range(0, len(content or b""), 4):
            yield upload_service_pb2.ReadReferenceResponse(data=(content or b"")[start : start + 4])

    async def ReadReferences(self, request: upload_service_pb2.ReadReferencesRequest, context: Any) -> Any:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "an asset service of an earlier release")

    def content(self, asset_index: int, rendition: int = 0) -> bytes:
        """Return the bytes of one file of an output."""
        found = [bytes(data) for key, data in self.bytes.items() if key.startswith(f"{asset_index}/{rendition}/")]
        return found[0]

    async def CreateUpload(self, request_iterator: Any, context: Any) -> Any:
        raise NotImplementedError

    AppendUpload = CreateUpload

    async def GetUpload(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    DescribeImport = BeginUpload = CompleteUpload = CancelUpload = CollectUpload = GetUpload
