"""Reaches a server of the same process, as generated stubs expect it of a channel of gRPC."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import Any, Self

import grpc

from service_kit.in_process.calls import StreamStream, StreamUnary, UnaryStream, UnaryUnary, encode
from service_kit.in_process.rpc import Rpc
from service_kit.in_process.server import InProcessServer


class InProcessChannel(grpc.aio.Channel):
    """Reaches a server of this process, as generated stubs expect it of a channel of gRPC."""

    def __init__(self, server: InProcessServer) -> None:
        """Call `server`, which may start and stop meanwhile."""
        self._server = server
        self._closed = False
        self._open: set[Rpc] = set()

    def unary_unary(self, method: Any, *serializers: Any, **options: Any) -> Any:
        """Return what makes calls of one request and one response."""
        return _Method(self, method, UnaryUnary, serializers, options)

    def unary_stream(self, method: Any, *serializers: Any, **options: Any) -> Any:
        """Return what makes calls of one request and many responses."""
        return _Method(self, method, UnaryStream, serializers, options)

    def stream_unary(self, method: Any, *serializers: Any, **options: Any) -> Any:
        """Return what makes calls of many requests and one response."""
        return _Method(self, method, StreamUnary, serializers, options)

    def stream_stream(self, method: Any, *serializers: Any, **options: Any) -> Any:
        """Return what makes calls of many requests and many responses."""
        return _Method(self, method, StreamStream, serializers, options)

    def begin(self, method: str, timeout: float | None, metadata: Any, *, wait_for_ready: bool) -> Rpc:
        """Begin a call.

        Raises:
            UsageError: the channel is closed.
        """
        if self._closed:
            raise grpc.aio.UsageError("Channel is closed.")
        rpc = Rpc(method, tuple(metadata or ()))
        rpc.limit(timeout)
        self._open.add(rpc)
        rpc.when_over(partial(self._open.discard, rpc))
        if wait_for_ready and not self._server.serving:
            rpc.task = asyncio.create_task(self._begin_when_served(rpc))
        else:
            self._server.begin(rpc)
        return rpc

    async def _begin_when_served(self, rpc: Rpc) -> None:
        while not self._server.serving:
            await self._server.changes.wait()
        self._server.begin(rpc)

    async def close(self, grace: float | None = None) -> None:
        """Take no more calls, and cancel those under way that do not end within the grace."""
        self._closed = True
        self._server.changes.wake()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace or 0):
                for rpc in tuple(self._open):
                    await rpc.over()
        for rpc in tuple(self._open):
            rpc.cancel("Channel closed!")

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return whether calls are served."""
        if self._closed:
            return grpc.ChannelConnectivity.SHUTDOWN
        serving = self._server.serving
        return grpc.ChannelConnectivity.READY if serving else grpc.ChannelConnectivity.TRANSIENT_FAILURE

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Return when the state is another."""
        while self.get_state() is last_observed_state:
            await self._server.changes.wait()

    async def channel_ready(self) -> None:
        """Return when calls are served."""
        while (state := self.get_state()) is not grpc.ChannelConnectivity.READY:
            if state is grpc.ChannelConnectivity.SHUTDOWN:
                raise grpc.aio.UsageError("Channel is closed.")
            await self._server.changes.wait()

    async def __aenter__(self) -> Self:
        """Return the channel itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()


class _Method:
    """Makes calls of one method."""

    def __init__(self, channel: InProcessChannel, method: Any, kind: Any, serializers: Any, options: Any) -> None:
        named = (options.get("request_serializer"), options.get("response_deserializer"))
        given = (*serializers, *named[len(serializers) :])
        self.serialize, self.deserialize = given[0], given[1]
        self._channel = channel
        self._name = method.decode() if isinstance(method, bytes) else method
        self._kind = kind

    def __call__(
        self,
        request: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: Any = None,
        wait_for_ready: bool | None = None,
        compression: Any = None,
        *,
        request_iterator: Any = None,
    ) -> Any:
        kind = self._kind
        content = None if kind.streams_in else encode(self.serialize, request)
        rpc = self._channel.begin(self._name, timeout, metadata, wait_for_ready=bool(wait_for_ready))
        call = kind(rpc, self.serialize, self.deserialize)
        if content is not None:
            call.send_only(content)
        elif (requests := request if request_iterator is None else request_iterator) is not None:
            call.send_all(requests)
        return call
