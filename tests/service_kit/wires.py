"""A server whose handlers a test writes, and the two ways to it: gRPC, and within the process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from atelier.asset.v1 import asset_service_pb2, upload_service_pb2
from atelier.worker.v1 import worker_service_pb2
from faults.ports import free_port
from service_kit import channels
from service_kit.clock import SystemClock
from service_kit.health import HealthBoard
from service_kit.identity import AUTHORIZATION, IssuedToken, KeyKind, Owner, TokenSource
from service_kit.keyring import Keyrings
from service_kit.server import GrpcServer

Piece = upload_service_pb2.CreateUploadRequest
"""What travels in both directions."""

GET, WATCH, UPLOAD, WORK = (
    "/atelier.asset.v1.AssetService/GetAsset",
    "/atelier.asset.v1.AssetService/WatchAssets",
    "/atelier.asset.v1.UploadService/CreateUpload",
    "/atelier.worker.v1.WorkerService/Work",
)
_KINDS: Mapping[str, tuple[str, Any]] = {
    GET: ("unary_unary", grpc.unary_unary_rpc_method_handler),
    WATCH: ("unary_stream", grpc.unary_stream_rpc_method_handler),
    UPLOAD: ("stream_unary", grpc.stream_unary_rpc_method_handler),
    WORK: ("stream_stream", grpc.stream_stream_rpc_method_handler),
}
_CONTRACTS = (asset_service_pb2.DESCRIPTOR, upload_service_pb2.DESCRIPTOR, worker_service_pb2.DESCRIPTOR)
"""They must be loaded: the layers look up who may call a method."""
LIMIT_S = 20.0
BIG = 100_000


class Wires:
    """The server, and what its handlers do by the names of their methods. `begun` and `ended` say that one did."""

    def __init__(self, folder: Path, *, near: bool) -> None:
        rings, clock = Keyrings(folder / "keys"), SystemClock()
        self.handlers: dict[str, Callable[[Any, Any], Any]] = {}
        self.begun, self.ended = asyncio.Event(), asyncio.Event()
        self.is_near = near
        self._signer = rings.identity_signer(clock)
        self._clock = clock
        self.server = GrpcServer(
            "asset",
            listen=f"127.0.0.1:{free_port()}",
            servicers=[(self._add, self)],
            verifier=rings.identity_verifier(clock),
            health=HealthBoard(),
            grace=timedelta(milliseconds=100),
        )

    @property
    def near(self) -> channels.Near:
        """What is called within the process."""
        return {self.server.target: self.server.near} if self.is_near else channels.NOBODY_NEAR

    def bare(self) -> grpc.aio.Channel:
        """Return a channel for calls that bring all they need."""
        return channels.connect_bare(self.server.target, near=self.near)

    def connect(self, token: Callable[[], Awaitable[IssuedToken]] | None = None, **options: Any) -> grpc.aio.Channel:
        """Return a channel that completes its calls, with a user's tokens unless another source is given."""

        async def issue() -> IssuedToken:
            return self.issue()

        tokens = TokenSource(token or issue, self._clock)
        return channels.connect(self.server.target, tokens=tokens, near=self.near, **options)

    def issue(self, kind: KeyKind = KeyKind.USER) -> IssuedToken:
        """Return an identity token."""
        return self._signer.issue(owner=Owner("default", "ann"), kind=kind, key_id="k")

    def call(self, channel: grpc.aio.Channel, path: str, *given: Any, more: Any = (), **options: Any) -> Any:
        """Make a call with an identity."""
        kind = KeyKind.WORKER if path == WORK else KeyKind.USER
        metadata = ((AUTHORIZATION, f"Bearer {self.issue(kind).token.reveal()}"), *more)
        return method(channel, path)(*given, metadata=metadata, **options)

    def _add(self, _: object, server: Any) -> None:
        services: dict[str, dict[str, Any]] = {}
        for path, (_, make) in _KINDS.items():
            _, service, name = path.split("/")
            handler = self._streaming(path) if path in (WATCH, WORK) else self._answering(path)
            services.setdefault(service, {})[name] = make(handler, Piece.FromString, Piece.SerializeToString)
        for service, handlers in services.items():
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
            server.add_registered_method_handlers(service, handlers)

    def _answering(self, path: str) -> Any:
        async def answer(request: Any, context: Any) -> Any:
            self.begun.set()
            try:
                return await self.handlers[path](request, context)
            finally:
                self.ended.set()

        return answer

    def _streaming(self, path: str) -> Any:
        async def answer(request: Any, context: Any) -> AsyncIterator[Any]:
            self.begun.set()
            try:
                async with aclosing(self.handlers[path](request, context)) as messages:
                    async for message in messages:
                        yield message
            finally:
                self.ended.set()

        return answer


def method(channel: grpc.aio.Channel, path: str) -> Any:
    """Return what makes calls of a method."""
    make = getattr(channel, _KINDS[path][0] if path in _KINDS else "unary_unary")
    return make(path, request_serializer=Piece.SerializeToString, response_deserializer=Piece.FromString)


def piece(text: str | bytes = b"x") -> Any:
    """Return a message."""
    return Piece(data=text.encode() if isinstance(text, str) else text)


async def soon(what: asyncio.Event | Awaitable[Any]) -> Any:
    """Wait for something that must come."""
    async with asyncio.timeout(LIMIT_S):
        return await (what.wait() if isinstance(what, asyncio.Event) else what)


async def echo(request: Any, context: Any) -> Any:
    """Answer with the request."""
    return request


async def forever(*_: Any) -> Any:
    """Never answer."""
    await asyncio.Event().wait()


async def one_and_forever(*_: Any) -> AsyncIterator[Any]:
    """Answer "first", and then nothing."""
    yield piece("first")
    await asyncio.Event().wait()


async def count_bytes(requests: AsyncIterator[Any], _: Any) -> Any:
    """Answer with how many bytes came."""
    return piece(str(sum([len(one.data) async for one in requests])))


async def failed(work: Any) -> grpc.aio.AioRpcError:
    """Return what a call fails with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await soon(work)
    return caught.value


async def until_it_waits(write: Any) -> int:
    """Write until that takes long. Returns how many messages were taken; the last write goes on."""
    for number in range(1000):
        task = asyncio.ensure_future(write(piece(bytes(BIG))))
        done, _ = await asyncio.wait({task}, timeout=0.1)
        if not done:
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            return number
        task.result()
    raise AssertionError("nobody ever waited")
