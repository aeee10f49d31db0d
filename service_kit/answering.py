"""How a call is answered: what a stream begins with goes out whole, and its generator closes when the client goes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Any, cast

import grpc

from service_kit.finishing import to_the_end
from service_kit.in_process.served import Served


class WholeBeginning:
    """The context of a stream that is answered: what goes out first goes out whole.

    gRPC notes that the initial metadata went only when whoever sent it runs on. Were he cut off before that, they would
    be sent again with the status, which fails, and the client would never hear why its stream ended.
    """

    def __init__(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        """Stand in for gRPC's own context."""
        self._context = context
        self._begun = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def send_initial_metadata(self, metadata: Any) -> None:
        """Send the metadata that go before the first message; at most once."""
        self._begun = True
        await _whole(self._context.send_initial_metadata(metadata))

    async def write(self, message: Any) -> None:
        """Send a message. The first takes what gRPC sends before it along."""
        if self._begun:
            await self._context.write(message)
        else:
            self._begun = True
            await _whole(self._context.write(message))


def with_whole_beginning(context: grpc.aio.ServicerContext[Any, Any]) -> grpc.aio.ServicerContext[Any, Any]:
    """Return what a stream is answered with. Within a process nothing can come between: its own context does."""
    if isinstance(context, Served):
        return context
    return cast(grpc.aio.ServicerContext[Any, Any], WholeBeginning(context))


async def _whole(sending: Awaitable[None]) -> None:
    task = asyncio.ensure_future(sending)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        # It ends: at the latest with the call, when the client goes or the server has stopped. How, nobody asks.
        with contextlib.suppress(Exception):
            await to_the_end(task)
        raise


async def write_all(result: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    """Send what a streaming handler gives. Its generator is closed when the client goes, not when it is collected."""
    if not hasattr(result, "__aiter__"):
        await result
        return
    async with contextlib.aclosing(result) as messages:
        async for message in messages:
            await context.write(message)


def behaviour(handler: grpc.RpcMethodHandler[Any, Any]) -> Any:
    """Return the function of a handler, whichever of the four kinds of calls it answers."""
    return handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
