"""Calls within a process end as calls of gRPC do, whoever ends them, and more strictly where gRPC forgets one side."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from service_kit import channels
from service_kit.errors import NotFound, Unavailable
from service_kit.rpc_errors import from_rpc_error
from tests.service_kit.wires import (
    BIG,
    GET,
    LIMIT_S,
    UPLOAD,
    WATCH,
    WORK,
    Wires,
    count_bytes,
    failed,
    forever,
    one_and_forever,
    piece,
    soon,
)

# So long that a busy machine has the call begin before it is over.
DEADLINE_S = 0.5


async def test_a_deadline_ends_both_sides(wires: Wires, channel: grpc.aio.Channel) -> None:
    wires.handlers.update({GET: forever, WATCH: one_and_forever})
    error = await failed(wires.call(channel, GET, piece(), timeout=DEADLINE_S))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await soon(wires.ended)
    wires.ended.clear()
    call = wires.call(channel, WATCH, piece(), timeout=DEADLINE_S)
    assert (await soon(call.read())).data == b"first"
    assert (await failed(call.read())).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await soon(wires.ended)


async def test_a_call_that_is_cancelled_at_once_is_cancelled(wires: Wires, channel: grpc.aio.Channel) -> None:
    wires.handlers.update({GET: forever, WATCH: one_and_forever, UPLOAD: count_bytes})
    for path, given in ((GET, (piece(),)), (UPLOAD, ())):
        call = wires.call(channel, path, *given)
        assert call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert call.cancelled() and await call.code() is grpc.StatusCode.CANCELLED
    stream = wires.call(channel, WATCH, piece())
    stream.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stream.read()


async def test_a_task_that_is_cancelled_ends_the_handler(wires: Wires, channel: grpc.aio.Channel) -> None:
    wires.handlers[GET] = forever

    async def ask() -> Any:
        return await wires.call(channel, GET, piece())

    task = asyncio.create_task(ask())
    await soon(wires.begun)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await soon(wires.ended)


async def test_a_read_that_is_cancelled_ends_the_handler(wires: Wires, channel: grpc.aio.Channel) -> None:
    wires.handlers[WATCH] = one_and_forever
    call = wires.call(channel, WATCH, piece())
    assert (await soon(call.read())).data == b"first"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await call.read()
    await soon(wires.ended)
    assert call.cancelled()


async def test_what_was_written_before_a_cancellation_is_not_read(wires: Wires, channel: grpc.aio.Channel) -> None:
    written = asyncio.Event()

    async def write(_: Any, context: Any) -> AsyncIterator[Any]:
        await context.write(piece("unread"))
        written.set()
        await asyncio.Event().wait()
        yield piece()

    wires.handlers[WATCH] = write
    call = wires.call(channel, WATCH, piece())
    await soon(written)
    assert call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await soon(call.read())
    await soon(wires.ended)


async def test_what_was_written_before_an_error_is_read_first(wires: Wires, channel: grpc.aio.Channel) -> None:
    async def break_off(*_: Any) -> AsyncIterator[Any]:
        yield piece("first")
        yield piece("second")
        raise NotFound.of("asset", "a")

    wires.handlers[WATCH] = break_off
    call = wires.call(channel, WATCH, piece())
    await soon(wires.ended)
    assert [(await soon(call.read())).data for _ in range(2)] == [b"first", b"second"]
    for _ in range(2):
        assert (await failed(call.read())).code() is grpc.StatusCode.NOT_FOUND


async def test_a_server_that_stops_ends_its_calls_and_takes_no_more(wires: Wires, channel: grpc.aio.Channel) -> None:
    wires.handlers.update({GET: forever, WATCH: one_and_forever})
    stream = wires.call(channel, WATCH, piece())
    assert (await soon(stream.read())).data == b"first"
    wires.begun.clear()
    stuck = wires.call(channel, GET, piece())
    await soon(wires.begun)
    await soon(wires.server.stop())
    assert from_rpc_error(await failed(stream.read())).message == "The service is stopping: reconnect."
    assert isinstance(from_rpc_error(await failed(stuck)), Unavailable)
    assert (await failed(wires.call(channel, GET, piece()))).code() is grpc.StatusCode.UNAVAILABLE


async def test_a_call_that_ends_within_the_grace_is_answered(wires: Wires, channel: grpc.aio.Channel) -> None:
    stopping = asyncio.Event()

    async def answer(request: Any, _: Any) -> Any:
        await stopping.wait()
        return request

    wires.handlers[GET] = answer

    async def drain() -> None:
        stopping.set()

    wires.server.on_drain(drain)
    call = wires.call(channel, GET, piece("late"))
    await soon(wires.begun)
    await soon(wires.server.stop())
    assert (await soon(call)).data == b"late"


async def test_a_writer_that_waits_ends_with_its_client(wires: Wires, channel: grpc.aio.Channel) -> None:
    async def flood(*_: Any) -> AsyncIterator[Any]:
        while True:
            yield piece(bytes(BIG))

    wires.handlers[WATCH] = flood
    call = wires.call(channel, WATCH, piece())
    await soon(call.read())
    call.cancel()
    await soon(wires.ended)


async def test_a_channel_that_is_closed_ends_its_calls(wires: Wires) -> None:
    wires.handlers[GET] = forever
    channel = wires.bare()
    call = wires.call(channel, GET, piece())
    task = asyncio.ensure_future(call)
    await soon(wires.begun)
    await soon(channel.close())
    await soon(wires.ended)
    await asyncio.wait({task}, timeout=LIMIT_S)
    assert task.cancelled() or isinstance(task.exception(), grpc.aio.AioRpcError)
    with pytest.raises(grpc.aio.UsageError):
        await wires.call(channel, GET, piece())
    assert channel.get_state() is grpc.ChannelConnectivity.SHUTDOWN


async def test_a_handler_that_cancels_itself_ends_the_call(tmp_path: Path) -> None:
    """With gRPC its client waits until its deadline."""
    wires = Wires(tmp_path, near=True)

    async def give_up(*_: Any) -> Any:
        raise asyncio.CancelledError

    wires.handlers[GET] = give_up
    await wires.server.start()
    async with wires.bare() as channel:
        assert (await failed(wires.call(channel, GET, piece()))).code() is grpc.StatusCode.CANCELLED
    await wires.server.stop()


async def test_a_call_that_nobody_holds_any_more_ends(tmp_path: Path) -> None:
    wires = Wires(tmp_path, near=True)
    wires.handlers[WATCH] = one_and_forever
    await wires.server.start()
    async with wires.bare() as channel:
        call = wires.call(channel, WATCH, piece())
        await soon(call.read())
        del call
        gc.collect()
        await soon(wires.ended)
    await wires.server.stop()


async def test_a_stop_does_not_wait_for_a_client_that_does_not_read(tmp_path: Path) -> None:
    wires = Wires(tmp_path, near=True)

    async def flood(*_: Any) -> AsyncIterator[Any]:
        while True:
            yield piece(bytes(BIG))

    wires.handlers[WATCH] = flood
    await wires.server.start()
    async with wires.bare() as channel:
        call = wires.call(channel, WATCH, piece())
        await soon(wires.begun)
        await soon(wires.server.stop())
        assert wires.ended.is_set()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await soon(_all(call))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_handler_that_goes_on_after_its_client_went_reaches_nobody(tmp_path: Path) -> None:
    wires = Wires(tmp_path, near=True)
    outcome: list[Any] = []

    async def go_on(_: Any, context: Any) -> AsyncIterator[Any]:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        try:
            await context.write(piece())
        except grpc.aio.UsageError as error:
            outcome.append((str(error), context.cancelled(), context.done()))
        for nothing in list[Any]():
            yield nothing

    wires.handlers[WATCH] = go_on
    await wires.server.start()
    async with wires.bare() as channel:
        call = wires.call(channel, WATCH, piece())
        await soon(wires.begun)
        call.cancel()
        await soon(wires.ended)
    assert outcome == [("RPC already finished.", True, True)]
    await soon(wires.server.stop())


async def _all(call: Any) -> list[Any]:
    return [one async for one in call]


@pytest.mark.parametrize("ends", ["call", "task", "server", "channel"])
async def test_whenever_a_call_is_ended_nothing_of_it_is_left(tmp_path: Path, ends: str) -> None:
    """At every step of the loop that a call takes, and some more: no handler hangs, no waiter, and no task."""
    wires = Wires(tmp_path, near=True)

    async def exchange(requests: Any, context: Any) -> AsyncIterator[Any]:
        await context.send_initial_metadata((("x-first", "1"),))
        async for one in requests:
            yield one
            await asyncio.sleep(0)

    async def talk(channel: grpc.aio.Channel) -> int:
        call = wires.call(channel, WORK, timeout=LIMIT_S)
        heard.append(call)
        assert dict(await call.initial_metadata()) == {"x-first": "1"} or call.done()
        for _ in range(4):
            await call.write(piece(bytes(BIG)))
            await call.write(piece(bytes(2 * BIG)))
            await asyncio.sleep(0)
            for _ in range(2):
                assert await call.read() is not grpc.aio.EOF
        await call.done_writing()
        assert await call.read() is grpc.aio.EOF
        return 1

    wires.handlers[WORK] = exchange
    finished, heard = 0, list[Any]()
    await wires.server.start()
    for steps in range(60):
        await wires.server.near.stop(0)
        wires.server.near.start()
        before = asyncio.all_tasks()
        channel = channels.connect_bare("near", near={"near": wires.server.near})
        task = asyncio.create_task(talk(channel))
        for _ in range(steps):
            await asyncio.sleep(0)
        if ends == "call" and heard:
            heard[-1].cancel()
        elif ends == "task":
            task.cancel()
        elif ends == "server":
            await soon(wires.server.near.stop(0))
        else:
            await soon(channel.close())
        await soon(asyncio.wait({task}))
        finished += not task.cancelled() and task.exception() is None
        ending = (grpc.aio.AioRpcError, grpc.aio.UsageError, asyncio.InvalidStateError, type(None))
        assert task.cancelled() or isinstance(task.exception(), ending)
        await soon(wires.server.near.stop(0))
        assert asyncio.all_tasks() == before
        await channel.close()
    await wires.server.stop()
    assert 0 < finished < 60
