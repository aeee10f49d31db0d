"""Calls within a process do what calls of gRPC do: every test here that asks for `wires` passes with both."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import grpc
import pytest

from service_kit.answering import with_whole_beginning
from service_kit.call_endings import Ending
from service_kit.errors import InvalidArgument
from service_kit.identity import current_caller
from service_kit.in_process.rpc import MAX_MESSAGE_BYTES, Rpc
from service_kit.in_process.served import Served
from service_kit.interceptors import REQUEST_ID, current_request_id, serving_request
from service_kit.rpc_errors import from_rpc_error
from tests.service_kit.wires import (
    BIG,
    GET,
    LIMIT_S,
    UPLOAD,
    WATCH,
    WORK,
    Piece,
    Wires,
    count_bytes,
    echo,
    failed,
    method,
    piece,
    soon,
    until_it_waits,
)

OUTSIDE: ContextVar[str] = ContextVar("outside", default="nothing")


async def test_all_kinds_of_calls_carry_messages_in_order(wires: Wires, channel: grpc.aio.Channel) -> None:
    async def twice(request: Any, _: Any) -> AsyncIterator[Any]:
        yield request
        yield piece(request.data * 2)

    async def each(requests: Any, _: Any) -> AsyncIterator[Any]:
        async for one in requests:
            yield one

    wires.handlers.update({GET: echo, WATCH: twice, UPLOAD: count_bytes, WORK: each})
    assert (await soon(wires.call(channel, GET, piece("a")))).data == b"a"
    assert [one.data async for one in wires.call(channel, WATCH, piece("a"))] == [b"a", b"aa"]
    upload = wires.call(channel, UPLOAD)
    for text in ("one", "three"):
        await upload.write(piece(text))
    await upload.done_writing()
    assert (await soon(upload)).data == b"8"
    work = wires.call(channel, WORK)
    for text in ("a", "b"):
        await work.write(piece(text))
        assert (await soon(work.read())).data == text.encode()
    await work.done_writing()
    await work.done_writing()
    assert await soon(work.read()) is grpc.aio.EOF
    assert await work.code() is grpc.StatusCode.OK
    with pytest.raises(asyncio.InvalidStateError):
        await work.write(piece())


async def test_metadata_passes_both_ways_and_nothing_else_of_the_caller(
    wires: Wires, channel: grpc.aio.Channel
) -> None:
    seen: list[Any] = []

    async def tell(request: Any, context: Any) -> Any:
        seen.append((dict(context.invocation_metadata())["x-mine"], OUTSIDE.get(), current_request_id()))
        seen.append((current_caller().owner.owner_id, context.time_remaining() is not None))
        OUTSIDE.set("changed")
        await context.send_initial_metadata((("x-first", "1"),))
        return request

    wires.handlers[GET] = tell
    OUTSIDE.set("of the caller")
    with serving_request("not-told"):
        call = wires.call(channel, GET, piece(), more=(("x-mine", "m"), (REQUEST_ID, "r-1")), timeout=LIMIT_S)
    assert dict(await soon(call.initial_metadata()))["x-first"] == "1"
    await soon(call)
    assert await soon(call), "the answer stays"
    assert dict(await call.trailing_metadata())[REQUEST_ID] == "r-1"
    assert seen == [("m", "nothing", "r-1"), ("ann", True)]
    assert OUTSIDE.get() == "of the caller"
    assert call.done() and not call.cancelled() and not call.cancel()


async def test_errors_arrive_with_all_they_say(wires: Wires, channel: grpc.aio.Channel) -> None:
    async def refuse(*_: Any) -> Any:
        raise InvalidArgument.field("name", "is too long")

    wires.handlers[GET] = refuse
    call = wires.call(channel, GET, piece(), more=((REQUEST_ID, "r-2"),))
    error = await failed(call)
    known = from_rpc_error(error)
    assert isinstance(known, InvalidArgument)
    assert [(one.field, one.message) for one in known.fields] == [("name", "is too long")]
    assert error.details() == known.message
    assert dict(error.trailing_metadata())[REQUEST_ID] == "r-2"
    assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_what_is_no_method_of_the_server_or_has_no_identity_is_refused(
    wires: Wires, channel: grpc.aio.Channel
) -> None:
    unknown = wires.call(channel, "/atelier.asset.v1.AssetService/NoSuch", piece())
    assert (await failed(unknown)).code() is grpc.StatusCode.UNIMPLEMENTED
    for refused in (method(channel, GET)(piece()), method(channel, WATCH)(piece()).read()):
        assert (await failed(refused)).code() is grpc.StatusCode.UNAUTHENTICATED
    assert (await failed(method(channel, UPLOAD)())).code() is grpc.StatusCode.UNAUTHENTICATED
    assert not wires.begun.is_set()


async def test_nobody_shares_a_message(wires: Wires, channel: grpc.aio.Channel) -> None:
    answer = piece("answer")

    async def change(request: Any, _: Any) -> AsyncIterator[Any]:
        assert request.data == b"asked"
        request.data = b"changed by the handler"
        yield answer
        answer.data = b"changed after it was sent"
        yield answer

    wires.handlers[WATCH] = change
    asked = piece("asked")
    call = wires.call(channel, WATCH, asked)
    assert [one.data async for one in call] == [b"answer", b"changed after it was sent"]
    assert asked.data == b"asked"


async def test_messages_that_are_too_long_end_the_call(wires: Wires, channel: grpc.aio.Channel) -> None:
    huge = piece(bytes(MAX_MESSAGE_BYTES + 1))

    async def too_much(*_: Any) -> Any:
        return huge

    wires.handlers.update({GET: too_much, UPLOAD: count_bytes})
    assert (await failed(wires.call(channel, GET, piece()))).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    upload = wires.call(channel, UPLOAD)
    with contextlib.suppress(grpc.aio.AioRpcError):
        await soon(upload.write(huge))
    assert (await failed(upload)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_thousand_calls_at_once_each_get_their_answer(wires: Wires, channel: grpc.aio.Channel) -> None:
    async def later(request: Any, _: Any) -> Any:
        await asyncio.sleep(0)
        return request

    wires.handlers[GET] = later
    calls = [wires.call(channel, GET, piece(str(number))) for number in range(1000)]
    for number in range(0, 1000, 7):
        calls[number].cancel()
    # Over gRPC a thousand take their time where others work.
    async with asyncio.timeout(60):
        answers = await asyncio.gather(*calls, return_exceptions=True)
    for number, found in enumerate(answers):
        if number % 7 == 0:
            assert isinstance(found, asyncio.CancelledError)
        else:
            assert isinstance(found, Piece) and found.data == str(number).encode()


async def test_a_writer_waits_for_a_slow_reader(wires: Wires, channel: grpc.aio.Channel) -> None:
    waits: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def write(_: Any, context: Any) -> AsyncIterator[Any]:
        waits.set_result(await until_it_waits(context.write))
        await asyncio.Event().wait()
        yield piece()

    wires.handlers[WATCH] = write
    call = wires.call(channel, WATCH, piece())
    taken = await soon(waits)
    assert 0 < taken * BIG < (1 << 20 if wires.is_near else 8 << 20)
    for _ in range(taken + 1):
        assert len((await soon(call.read())).data) == BIG
    call.cancel()
    await soon(wires.ended)


async def test_an_upload_waits_for_its_reader_and_never_looks_whole_when_it_was_cut(
    wires: Wires, channel: grpc.aio.Channel
) -> None:
    go_on = asyncio.Event()
    outcome: list[Any] = []

    async def read(requests: Any, _: Any) -> Any:
        with contextlib.suppress(asyncio.CancelledError):
            await go_on.wait()
        try:
            outcome.append(sum([1 async for _ in requests]))
        except BaseException as error:
            outcome.append(type(error).__name__)
            raise
        return piece()

    wires.handlers[UPLOAD] = read
    call = wires.call(channel, UPLOAD)
    assert await until_it_waits(call.write) * BIG < 16 << 20
    call.cancel()
    go_on.set()
    await soon(wires.ended)
    if wires.is_near:  # gRPC's own stream looks as if it had ended here; uploads say how long they are
        assert outcome == ["CancelledError"]


async def test_an_upload_may_be_answered_before_its_end(wires: Wires, channel: grpc.aio.Channel) -> None:
    async def refuse(requests: Any, _: Any) -> Any:
        await anext(aiter(requests))
        raise InvalidArgument("No.")

    wires.handlers[UPLOAD] = refuse
    call = wires.call(channel, UPLOAD)
    ending = Ending(call)
    with pytest.raises((grpc.aio.AioRpcError, asyncio.InvalidStateError)):
        while True:
            await soon(call.write(piece(bytes(BIG))))
    assert ending.of(await failed(call)).code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_requests_may_come_from_an_iterator(wires: Wires, channel: grpc.aio.Channel) -> None:
    wires.handlers[UPLOAD] = count_bytes

    async def give(*, fail: bool) -> AsyncIterator[Any]:
        yield piece("one")
        if fail:
            raise ValueError("no more")
        yield piece("two")

    assert (await soon(wires.call(channel, UPLOAD, give(fail=False)))).data == b"6"
    assert (await soon(wires.call(channel, UPLOAD, [piece("one")]))).data == b"3"
    with pytest.raises(asyncio.CancelledError):
        await soon(wires.call(channel, UPLOAD, give(fail=True)))


async def test_who_watches_a_call_hears_of_its_end(wires: Wires, channel: grpc.aio.Channel) -> None:
    wires.handlers[GET] = echo
    heard: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    call = wires.call(channel, GET, piece("a"), timeout=LIMIT_S)
    call.add_done_callback(heard.set_result)
    assert 0 < call.time_remaining() <= LIMIT_S
    assert await soon(heard) is call
    assert (await call.code(), await call.details()) == (grpc.StatusCode.OK, "")
    assert [one.data for one in await soon(asyncio.gather(call, call))] == [b"a", b"a"]


async def test_a_channel_waits_for_a_server_that_starts(tmp_path: Path) -> None:
    wires = Wires(tmp_path, near=True)
    wires.handlers[GET] = echo
    async with wires.bare() as channel:
        assert channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE
        ready = asyncio.ensure_future(channel.channel_ready())
        waiting = asyncio.ensure_future(wires.call(channel, GET, piece("a"), wait_for_ready=True))
        refused = wires.call(channel, GET, piece())
        assert (await failed(refused)).code() is grpc.StatusCode.UNAVAILABLE
        await wires.server.start()
        await soon(ready)
        assert (await soon(waiting)).data == b"a"
        assert channel.get_state() is grpc.ChannelConnectivity.READY
        await wires.server.stop()


async def test_a_stream_within_a_process_begins_without_a_task_of_its_own() -> None:
    served = Served(Rpc("/a/Method", ()), None)
    assert with_whole_beginning(served) is served
