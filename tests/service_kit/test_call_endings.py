"""What an upload ended with, where it is refused while its client still writes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc
import pytest

from service_kit.call_endings import Ending

TIMES = 300


@pytest.fixture
async def upload() -> AsyncIterator[Any]:
    """Give the method of a service that refuses what is sent to it at its first message."""

    async def refuse(requests: Any, context: Any) -> None:
        await anext(aiter(requests))
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "This is no picture.", (("why", "type"),))

    server = grpc.aio.server()
    send: Any = grpc.stream_unary_rpc_method_handler(refuse)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Uploads", {"Send": send}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel.stream_unary("/Uploads/Send")
    await server.stop(None)


async def test_a_refusal_is_told_whichever_of_two_endings_comes_last(upload: Any) -> None:
    told: Counter[tuple[Any, ...]] = Counter()

    async def send() -> None:
        call = upload()
        ending = Ending(call)
        # It ends when the service has answered: what it says is read from the call.
        with suppress(asyncio.InvalidStateError, grpc.RpcError):
            while True:
                await call.write(bytes(60_000))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        ended = ending.of(caught.value)
        assert isinstance(ended, grpc.aio.AioRpcError)
        told[ended.code(), ended.details(), dict(ended.trailing_metadata()).get("why")] += 1

    for _ in range(TIMES // 10):
        await asyncio.gather(*(send() for _ in range(10)))
    assert told == {(grpc.StatusCode.INVALID_ARGUMENT, "This is no picture.", "type"): TIMES}


async def test_what_only_grpc_says_is_not_hidden(upload: Any) -> None:
    call = upload()
    ending = Ending(call)
    call.cancel()
    own = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "gone")
    assert ending.of(own) is own
