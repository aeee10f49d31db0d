"""Calls that are completed before they are sent, and that one cancellation always ends.

gRPC's own client interceptors swallow a cancellation that comes while a call begins or ends, and cost each call two
tasks. Here whoever waits for a call makes it: nothing runs beside them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any, Protocol, Self, TypeVar

import grpc

_T = TypeVar("_T")


class Completing(Protocol):
    """Completes calls that are about to be made."""

    timeout_s: float
    """The deadline of calls of one request and one response that have none, in seconds."""

    def note(self, metadata: Any) -> grpc.aio.Metadata:
        """Return the metadata of a call with the id of the request that is served now, unless they have one."""

    async def identify(self, method: str | bytes, metadata: grpc.aio.Metadata) -> None:
        """Add our identity to the metadata of a call, where it needs one and has none."""

    def learn(self, code: grpc.StatusCode) -> None:
        """Take note of how a call failed."""


class CompletingChannel(grpc.aio.Channel):
    """A channel that completes each call."""

    def __init__(self, channel: grpc.aio.Channel, completing: Completing) -> None:
        """Call through `channel`, which closes with this one."""
        self._channel = channel
        self._completing = completing

    def unary_unary(self, method: Any, *given: Any, **options: Any) -> Any:
        """Return what makes calls of one request and one response."""
        return self._method(method, self._channel.unary_unary(method, *given, **options), unary=True)

    def unary_stream(self, method: Any, *given: Any, **options: Any) -> Any:
        """Return what makes calls of one request and many responses."""
        return self._method(method, self._channel.unary_stream(method, *given, **options))

    def stream_unary(self, method: Any, *given: Any, **options: Any) -> Any:
        """Return what makes calls of many requests and one response."""
        return self._method(method, self._channel.stream_unary(method, *given, **options))

    def stream_stream(self, method: Any, *given: Any, **options: Any) -> Any:
        """Return what makes calls of many requests and many responses."""
        return self._method(method, self._channel.stream_stream(method, *given, **options))

    def _method(self, method: Any, make: Callable[..., Any], *, unary: bool = False) -> Callable[..., CompletedCall]:
        def call(
            request: Any = None,
            timeout: float | None = None,
            metadata: Any = None,
            credentials: Any = None,
            wait_for_ready: bool | None = None,
            compression: Any = None,
            *,
            request_iterator: Any = None,
        ) -> CompletedCall:
            # Now, not when it is waited for: that may be in the service of another request.
            noted = self._completing.note(metadata)

            async def begin() -> Any:
                await self._completing.identify(method, noted)
                return make(
                    request if request_iterator is None else request_iterator,
                    timeout=self._completing.timeout_s if unary and timeout is None else timeout,
                    metadata=noted,
                    credentials=credentials,
                    wait_for_ready=wait_for_ready,
                    compression=compression,
                )

            return CompletedCall(begin, self._completing.learn)

        return call

    async def close(self, grace: float | None = None) -> None:
        """Close the channel; calls that do not end within the grace are cancelled."""
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """Return how the connection stands."""
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Return when it stands otherwise."""
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Return when there is a connection."""
        await self._channel.channel_ready()

    async def __aenter__(self) -> Self:
        """Return the channel itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()


class CompletedCall:
    """A call as generated stubs return it, of any of the four kinds. It begins when something of it is waited for."""

    def __init__(self, begin: Callable[[], Awaitable[Any]], learn: Callable[[grpc.StatusCode], None]) -> None:
        """Make the call with `begin`; tell `learn` with which status it failed."""
        self._begin = begin
        self._learn = learn
        self._beginning = asyncio.Lock()
        self._call: Any = None
        self._maker: asyncio.Task[Any] | None = None
        self._cancelled = False

    def __await__(self) -> Generator[Any, None, Any]:
        """Return the response."""
        return self._cancellable(self._response()).__await__()

    def __aiter__(self) -> AsyncIterator[Any]:
        """Return the responses."""
        return self

    async def __anext__(self) -> Any:
        """Return the next response."""
        # Not gRPC's own iterator: who has read may go on with a loop, and nothing of it is left behind.
        if (message := await self.read()) is grpc.aio.EOF:
            raise StopAsyncIteration
        return message

    async def read(self) -> Any:
        """Return the next response, or `grpc.aio.EOF`."""
        return await self._cancellable(self._of_call("read"))

    async def write(self, request: Any) -> None:
        """Send a request."""
        await self._cancellable(self._of_call("write", request))

    async def done_writing(self) -> None:
        """Say that no more requests come."""
        await self._cancellable(self._of_call("done_writing"))

    async def wait_for_connection(self) -> None:
        """Return when the call has a connection."""
        await self._cancellable(self._of_call("wait_for_connection"))

    async def initial_metadata(self) -> Any:
        """Return what the service said first."""
        return await self._cancellable(self._of_call("initial_metadata"), ends_call=False)

    async def trailing_metadata(self) -> Any:
        """Return what the service said last."""
        return await self._cancellable(self._of_call("trailing_metadata"), ends_call=False)

    async def code(self) -> Any:
        """Return how it ended."""
        return await self._cancellable(self._of_call("code"), ends_call=False)

    async def details(self) -> Any:
        """Return what the service said about how it ended."""
        return await self._cancellable(self._of_call("details"), ends_call=False)

    def cancel(self) -> bool:
        """End it."""
        self._cancelled = True
        maker, self._maker = self._maker, None
        if maker is not None:
            maker.cancel()
        return self._call is None or bool(self._call.cancel())

    def cancelled(self) -> bool:
        """Whether it was cancelled here."""
        return self._cancelled if self._call is None else bool(self._call.cancelled())

    def done(self) -> bool:
        """Whether it has ended."""
        return self._cancelled if self._call is None else bool(self._call.done())

    async def _begun(self) -> Any:
        if self._call is None:
            # Who writes and who reads may both be the first.
            async with self._beginning:
                if self._call is None:
                    made = None if self._cancelled else await self._made()
                    if self._cancelled:
                        if made is not None:
                            made.cancel()
                        raise asyncio.CancelledError
                    self._call = made
        return self._call

    async def _made(self) -> Any:
        """Make the call. Whoever does is called back by `cancel`: a token may be long in coming."""
        self._maker = asyncio.current_task()
        try:
            return await self._begin()
        finally:
            maker, self._maker = self._maker, None
            if maker is None and (task := asyncio.current_task()) is not None:
                # Not told to end by its own owner: only this call is over.
                task.uncancel()

    async def _response(self) -> Any:
        return await (await self._begun())

    async def _of_call(self, name: str, *given: Any) -> Any:
        return await getattr(await self._begun(), name)(*given)

    async def _cancellable(self, step: Awaitable[_T], *, ends_call: bool = True) -> _T:
        """Return what a step of the call returns, unless the caller was told to end meanwhile, whatever gRPC says.

        A call whose messages nobody waits for any more ends with that; one that somebody only looked at goes on.
        """
        task = asyncio.current_task()
        before = task.cancelling() if task is not None else 0
        try:
            result = await step
        except asyncio.CancelledError:
            if ends_call:
                self.cancel()
            raise
        except Exception as error:
            if task is not None and task.cancelling() > before:
                raise asyncio.CancelledError from None
            if isinstance(error, grpc.aio.AioRpcError):
                self._learn(error.code())
            raise
        if task is not None and task.cancelling() > before:
            if ends_call:
                self.cancel()
            raise asyncio.CancelledError
        return result
