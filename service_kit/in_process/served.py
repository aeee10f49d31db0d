"""The side of a call within a process that its handler sees."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Never

import grpc

from service_kit.in_process.rpc import Broken, Entries, Rpc, Status, is_cancelled, remaining, too_long


class Served(grpc.aio.ServicerContext[Any, Any]):
    """A call as its handler sees it."""

    def __init__(self, rpc: Rpc, serialize: Callable[[Any], bytes] | None) -> None:
        """Answer `rpc`."""
        self._rpc = rpc
        self._serialize = serialize
        self._code = grpc.StatusCode.OK
        self._details = ""
        self._trailing: Entries = ()

    def __aiter__(self) -> Served:
        """Give the requests."""
        return self

    async def __anext__(self) -> bytes:
        """Return the next request."""
        message = await self.take()
        if message is None:
            raise StopAsyncIteration
        return message

    async def take(self) -> bytes | None:
        """Return the next request; None after the last.

        Raises:
            CancelledError: the call is over, whatever was on its way.
        """
        try:
            return await self._rpc.requests.get()
        except Broken:
            raise asyncio.CancelledError from None

    async def read(self) -> Any:
        """Return the next request; EOF after the last."""
        message = await self.take()
        return grpc.aio.EOF if message is None else message

    async def write(self, message: Any) -> None:
        """Send a response as soon as there is room.

        Raises:
            UsageError: the call is over, or the message is too long, which ends it.
        """
        if self._rpc.status is not None:
            raise grpc.aio.UsageError("RPC already finished.")
        content: bytes = message if self._serialize is None else self._serialize(message)
        if (refused := too_long(content)) is not None:
            self._rpc.answer(refused)
            raise grpc.aio.UsageError(refused.details)
        self._rpc.begin_answer(())
        if not await self._rpc.responses.put(content):
            raise grpc.aio.UsageError("RPC already finished.")

    def finish(self) -> None:
        """End the call with the status that was set, OK by itself."""
        self._rpc.begin_answer(())
        self._rpc.answer(Status(self._code, self._details, self._trailing))

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> Never:
        """End the call with an error."""
        if code is grpc.StatusCode.OK:
            raise grpc.aio.UsageError("abort() takes no status OK.")
        self._code, self._details = code, details
        self._trailing = tuple(trailing_metadata) or self._trailing
        self._rpc.answer(Status(code, details, self._trailing))
        raise grpc.aio.AbortError(f"the call was ended with {code.name}")

    async def abort_with_status(self, status: Any) -> Never:
        """End the call with an error."""
        await self.abort(status.code, status.details, status.trailing_metadata)

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Tell the client before the first response."""
        if self._rpc.initial is not None:
            raise grpc.aio.UsageError("Send initial metadata failed: already sent.")
        self._rpc.begin_answer(tuple(initial_metadata))

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        """Tell the client with the status."""
        self._trailing = tuple(trailing_metadata)

    def trailing_metadata(self) -> Any:
        """Return what the client is told with the status."""
        return self._trailing

    def invocation_metadata(self) -> Any:
        """Return what the client told."""
        return self._rpc.metadata

    def set_code(self, code: grpc.StatusCode) -> None:
        """Say how the call will end."""
        self._code = code

    def set_details(self, details: str) -> None:
        """Say why."""
        self._details = details

    def code(self) -> grpc.StatusCode:
        """Return how the call will end or has ended."""
        return self._code

    def details(self) -> str:
        """Return why."""
        return self._details

    def set_compression(self, compression: grpc.Compression) -> None:
        """Do nothing: nothing travels."""

    def disable_next_message_compression(self) -> None:
        """Do nothing: nothing travels."""

    def peer(self) -> str:
        """Return where the client is."""
        return "inproc"

    def peer_identities(self) -> Iterable[bytes] | None:
        """Return None: there is no TLS within a process."""
        return None

    def peer_identity_key(self) -> str | None:
        """Return None: there is no TLS within a process."""
        return None

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Return nothing: there is no TLS within a process."""
        return {}

    def time_remaining(self) -> Any:
        """Return the seconds until the deadline; None without one."""
        return remaining(self._rpc)

    def add_done_callback(self, callback: Any) -> None:
        """Have something called at the end."""
        self._rpc.when_over(lambda: callback(self))

    def cancelled(self) -> bool:
        """Tell whether the call was cancelled."""
        return is_cancelled(self._rpc)

    def done(self) -> bool:
        """Tell whether the call is over."""
        return self._rpc.status is not None
