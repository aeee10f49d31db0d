"""The contracts of the first release, from a stored descriptor set: messages, stubs, a proxy that knows no others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

_FILE = Path(__file__).with_name("first_release.binpb")
_END_S = 30.0
_PASSED_ON = ("authorization", "atelier-lease-token", "x-request-id")


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    files = {file.name: file for file in descriptor_pb2.FileDescriptorSet.FromString(_FILE.read_bytes()).file}

    def add(name: str) -> None:
        file = files.pop(name, None)
        if file is not None:
            for dependency in file.dependency:
                add(dependency)
            pool.Add(file)

    for name in list(files):
        add(name)
    return pool


@cache
def message_class(name: str) -> type[Message]:
    """Return the class of a message by its full name."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(name))


def messages(file: str) -> Any:
    """Return what the generated module of a file held: its messages, and the values of its enums."""
    found = _pool().FindFileByName(file)
    classes = {name: message_class(message.full_name) for name, message in found.message_types_by_name.items()}
    values = {v.name: v.number for enum in found.enum_types_by_name.values() for v in enum.values}
    return SimpleNamespace(**classes, **values)


def method_of(path: str) -> MethodDescriptor | None:
    """Return a method by its path, `/package.Service/Method`; None when the first release has none."""
    service, _, method = path.removeprefix("/").partition("/")
    try:
        found: MethodDescriptor | None = _pool().FindServiceByName(service).methods_by_name.get(method)
    except KeyError:
        return None
    return found


def stub(service: str) -> Callable[[grpc.aio.Channel], Any]:
    """Return what makes a client of a service."""

    def connected(channel: grpc.aio.Channel) -> Any:
        calls = {
            method.name: _kind(channel, method)(
                f"/{service}/{method.name}",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=message_class(method.output_type.full_name).FromString,
            )
            for method in _pool().FindServiceByName(service).methods
        }
        return SimpleNamespace(**calls)

    return connected


def reencoded(content: bytes, name: str) -> bytes:
    """Return a message as the first release passes it on: without what it does not know."""
    message = message_class(name).FromString(content)
    message.DiscardUnknownFields()
    return bytes(message.SerializeToString())


@asynccontextmanager
async def proxy(target: str) -> AsyncIterator[str]:
    """Run what stands for a service of the first release: methods and fields that it does not know do not pass.

    Yields its address.
    """
    async with grpc.aio.insecure_channel(target) as channel:
        # Nobody else may be given its port.
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers((_Handlers(channel),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            async with asyncio.timeout(_END_S):
                await server.stop(None)


class _Handlers(grpc.GenericRpcHandler):
    """Passes every call on, message by message. Each is served as a stream: on the wire there is no other."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        method = method_of(handler_call_details.method)
        if method is None:
            return None

        async def serve(requests: AsyncIterator[bytes], context: Any) -> None:
            await self._pass_on(handler_call_details.method, method, requests, context)

        return grpc.stream_stream_rpc_method_handler(serve)

    async def _pass_on(self, path: str, method: MethodDescriptor, requests: AsyncIterator[bytes], context: Any) -> None:
        metadata = [(key, value) for key, value in context.invocation_metadata() if key in _PASSED_ON]
        call: Any = self._channel.stream_stream(path)(metadata=metadata)
        asking = asyncio.create_task(self._ask(call, method, requests))
        try:
            while (answer := await call.read()) is not grpc.aio.EOF:
                await context.write(reencoded(answer, method.output_type.full_name))
            code, details = await call.code(), await call.details()
            if code is not grpc.StatusCode.OK:
                await context.abort(code, details, await call.trailing_metadata())
        except grpc.aio.AioRpcError as error:
            await context.abort(error.code(), error.details() or "", error.trailing_metadata())
        finally:
            asking.cancel()
            call.cancel()
            async with asyncio.timeout(_END_S):
                await asyncio.gather(asking, return_exceptions=True)

    async def _ask(self, call: Any, method: MethodDescriptor, requests: AsyncIterator[bytes]) -> None:
        async for request in requests:
            await call.write(reencoded(request, method.input_type.full_name))
        await call.done_writing()


def _kind(channel: grpc.aio.Channel, method: MethodDescriptor) -> Any:
    kinds: Sequence[Any] = (channel.unary_unary, channel.unary_stream, channel.stream_unary, channel.stream_stream)
    return kinds[2 * method.client_streaming + method.server_streaming]
