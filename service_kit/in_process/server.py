"""Serves calls of its own process with the handlers and layers of a server of gRPC."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Mapping
from functools import partial
from typing import Any

import grpc

from service_kit.answering import behaviour
from service_kit.in_process.rpc import Rpc, Status, Waiters
from service_kit.in_process.served import Served
from service_kit.tasks import end
from service_kit.telemetry import get_logger

_MOST_CALLS = 10_000

log = get_logger(__name__)


class InProcessServer:
    """Serves calls of this process with the handlers that a server of gRPC has."""

    def __init__(self, interceptor: grpc.aio.ServerInterceptor) -> None:
        """Have `interceptor` around every call; it gets requests as bytes, and gives coroutines."""
        self._interceptor = interceptor
        self._handlers: dict[str, Any] = {}
        self._context = contextvars.Context()
        self._tasks: set[asyncio.Task[None]] = set()
        self.serving = False
        self.changes = Waiters()

    def add(self, service: str, handlers: Mapping[str, Any]) -> None:
        """Serve the methods of a service."""
        self._handlers.update({f"/{service}/{name}": handler for name, handler in handlers.items()})

    def start(self) -> None:
        """Take calls. What handlers find in context variables is what is there now, nothing of who calls."""
        self._context = contextvars.copy_context()
        self.serving = True
        self.changes.wake()

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, give those under way the grace to finish, and end the rest."""
        self.serving = False
        self.changes.wake()
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=grace_s)
        await end(self._tasks)

    def begin(self, rpc: Rpc) -> None:
        """Run the handler of a call in a task of its own, or end the call with what keeps it from being served."""
        if not self.serving:
            rpc.answer(Status(grpc.StatusCode.UNAVAILABLE, "The service does not run."))
        elif len(self._tasks) >= _MOST_CALLS:
            rpc.answer(Status(grpc.StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!"))
        elif rpc.method not in self._handlers:
            rpc.answer(Status(grpc.StatusCode.UNIMPLEMENTED, "Method not found!"))
        else:
            loop = asyncio.get_running_loop()
            rpc.task = loop.create_task(self._serve(rpc), context=self._context.copy())
            self._tasks.add(rpc.task)
            rpc.task.add_done_callback(partial(self._ended, rpc))

    def _ended(self, rpc: Rpc, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        # Also a handler that was cancelled before its first step, or cancelled itself, ends the call of its client.
        if rpc.status is None:
            rpc.answer(Status(grpc.StatusCode.CANCELLED if self.serving else grpc.StatusCode.UNAVAILABLE))

    async def _serve(self, rpc: Rpc) -> None:
        try:
            handler = await self._wrapped(rpc.method)
            served = Served(rpc, handler.response_serializer)
            request = served if handler.request_streaming else await served.take()
            answer = await behaviour(handler)(request, served)
            if not handler.response_streaming:
                await served.write(answer)
            served.finish()
        except grpc.aio.AbortError:
            return  # the client knows
        except Exception as error:
            if rpc.answer(Status(grpc.StatusCode.UNKNOWN, f"Unexpected {type(error)}: {error}")):
                log.exception("in_process_fault", method=rpc.method)

    async def _wrapped(self, method: str) -> Any:
        async def find(_: grpc.HandlerCallDetails) -> Any:
            return self._handlers[method]

        # The interceptor keeps what it made.
        return await self._interceptor.intercept_service(find, _Called(method))


class _Called(grpc.HandlerCallDetails):
    def __init__(self, method: str) -> None:
        self.method = method
        self.invocation_metadata = ()
