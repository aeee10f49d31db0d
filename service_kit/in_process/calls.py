"""The side of a call within a process that its client sees, for the four kinds of calls."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Generator, Iterable
from typing import Any, ClassVar

import grpc

from service_kit.in_process.rpc import Broken, Rpc, Status, is_cancelled, remaining, too_long

_Encode = Callable[[Any], bytes] | None
_FINISHED = "RPC already finished."
_HALF_CLOSED = 'RPC is half closed after calling "done_writing".'


class Call(grpc.aio.Call):
    """What all kinds have in common."""

    streams_in: ClassVar[bool]

    def __init__(self, rpc: Rpc, serialize: _Encode, deserialize: Callable[[bytes], Any] | None) -> None:
        """Follow a call that has begun."""
        self._rpc = rpc
        self._serialize = serialize
        self._deserialize = deserialize
        self._loop = asyncio.get_running_loop()

    def __del__(self) -> None:
        """End a call that nobody can read any more. Garbage may be collected by any thread."""
        if self._rpc.status is None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nothing runs
                self._loop.call_soon_threadsafe(self._rpc.cancel, "Cancelled upon garbage collection!")

    def cancel(self) -> bool:
        """End the call and cancel its handler. Returns False when it had ended."""
        return self._rpc.cancel()

    def cancelled(self) -> bool:
        """Tell whether the call was cancelled."""
        return is_cancelled(self._rpc)

    def done(self) -> bool:
        """Tell whether the call is over."""
        return self._rpc.status is not None

    def time_remaining(self) -> float | None:
        """Return the seconds until the deadline; None without one."""
        return remaining(self._rpc)

    def add_done_callback(self, callback: Any) -> None:
        """Have something called at the end."""
        self._rpc.when_over(lambda: callback(self))

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """Return what the handler told first; nothing when the call ended before."""
        while self._rpc.initial is None and self._rpc.status is None:
            await self._rpc.news.wait()
        return grpc.aio.Metadata.from_tuple(self._rpc.initial or ())

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """Return what the handler told at the end."""
        return grpc.aio.Metadata.from_tuple((await self._rpc.over()).trailing)

    async def code(self) -> grpc.StatusCode:
        """Return how the call ended."""
        return (await self._rpc.over()).code

    async def details(self) -> str:
        """Return why."""
        return (await self._rpc.over()).details

    async def wait_for_connection(self) -> None:
        """Return at once: there is nothing to connect. Raises what the call ended with."""
        if self._rpc.status is not None:
            self._raise(self._rpc.status)

    def send_only(self, content: bytes) -> None:
        """Send the one request."""
        if (refused := too_long(content)) is not None:
            self._rpc.break_off(refused)
        else:
            self._rpc.requests.add(content)
            self._rpc.requests.close()

    def send_all(self, requests: Any) -> None:
        """Send requests as they come, in a task that ends with the call."""
        task = asyncio.create_task(_send_all(self._rpc, requests, self._serialize))
        self._rpc.when_over(task.cancel)

    def _raise(self, status: Status) -> None:
        """Raise what a call ended with, unless that is OK."""
        if status.locally:
            raise asyncio.CancelledError
        if status.code is not grpc.StatusCode.OK:
            initial = grpc.aio.Metadata.from_tuple(self._rpc.initial or ())
            trailing = grpc.aio.Metadata.from_tuple(status.trailing)
            raise grpc.aio.AioRpcError(status.code, initial, trailing, status.details, status.details)

    def _decode(self, content: bytes) -> Any:
        return content if self._deserialize is None else self._deserialize(content)

    async def _only(self) -> Any:
        """Return the one response, when the call is over."""
        try:
            status = await self._rpc.over()
        except asyncio.CancelledError:
            self.cancel()
            raise
        self._raise(status)
        content = self._rpc.responses.first()
        if content is None:
            raise grpc.aio.InternalError("The call ended without a response.")
        return self._decode(content)

    async def _next(self) -> Any:
        """Return the next response; EOF after the last."""
        try:
            content = await self._rpc.responses.get()
        except Broken:
            content = None
        except asyncio.CancelledError:
            self.cancel()
            raise
        if content is not None:
            return self._decode(content)
        self._raise(await self._rpc.over())
        return grpc.aio.EOF

    async def _write(self, request: Any) -> None:
        try:
            sent = await _send(self._rpc, encode(self._serialize, request))
        except asyncio.CancelledError:
            self.cancel()
            raise
        if not sent:
            self._raise(await self._rpc.over())


class _Responses(Call):
    async def read(self) -> Any:
        """Return the next response; EOF after the last."""
        return await self._next()

    def __aiter__(self) -> AsyncIterator[Any]:
        """Give the responses."""
        return self

    async def __anext__(self) -> Any:
        """Return the next response."""
        found = await self._next()
        if found is grpc.aio.EOF:
            raise StopAsyncIteration
        return found


class _Requests(Call):
    async def write(self, request: Any) -> None:
        """Send a request as soon as there is room.

        Raises:
            InvalidStateError: the call is over, or was said to have no more requests.
        """
        await self._write(request)

    async def done_writing(self) -> None:
        """Say that no more requests come."""
        self._rpc.requests.close()


class UnaryUnary(Call, grpc.aio.UnaryUnaryCall[Any, Any]):
    """One request, one response."""

    streams_in = False

    def __await__(self) -> Generator[Any, None, Any]:
        """Return the response."""
        return self._only().__await__()


class UnaryStream(_Responses, grpc.aio.UnaryStreamCall[Any, Any]):
    """One request, many responses."""

    streams_in = False


class StreamUnary(_Requests, grpc.aio.StreamUnaryCall[Any, Any]):
    """Many requests, one response."""

    streams_in = True

    def __await__(self) -> Generator[Any, None, Any]:
        """Return the response."""
        return self._only().__await__()


class StreamStream(_Requests, _Responses, grpc.aio.StreamStreamCall[Any, Any]):
    """Many requests, many responses."""

    streams_in = True


def encode(serialize: _Encode, message: Any) -> bytes:
    """Return a message as bytes."""
    content: bytes = message if serialize is None else serialize(message)
    return content


async def _send(rpc: Rpc, content: bytes) -> bool:
    """Send a request. Returns False when the call ended meanwhile; raises InvalidStateError when it had before."""
    if rpc.status is not None:
        raise asyncio.InvalidStateError(_FINISHED)
    if rpc.requests.closed:
        raise asyncio.InvalidStateError(_HALF_CLOSED)
    if (refused := too_long(content)) is not None:
        rpc.break_off(refused)
        return False
    return await rpc.requests.put(content)


async def _send_all(rpc: Rpc, requests: Any, serialize: _Encode) -> None:
    """Send requests until there are no more or the call is over, which their own fault ends."""
    try:
        async for request in requests if isinstance(requests, AsyncIterable) else _each(requests):
            if not await _send(rpc, encode(serialize, request)):
                return
    except asyncio.CancelledError:
        rpc.cancel()
        raise
    except Exception:  # noqa: BLE001 - as gRPC: whoever reads hears that the call was cancelled
        rpc.cancel()
        return
    rpc.requests.close()


async def _each(requests: Iterable[Any]) -> AsyncIterator[Any]:
    for request in requests:
        yield request
