"""Calls are completed, and one cancellation ends whoever waits for one, at whatever step of the call it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import grpc
import pytest

from atelier.asset.v1 import upload_service_pb2 as upload_pb2
from atelier.asset.v1 import upload_service_pb2_grpc as upload_grpc
from service_kit import channels
from service_kit.completed_calls import CompletedCall
from service_kit.errors import Unavailable
from service_kit.identity import IssuedToken, KeyKind, TokenSource, current_caller
from service_kit.interceptors import current_request_id, serving_request
from tests.service_kit.serving import ANN, House, all_of, failing
from tests.service_kit.wires import GET, Wires, echo, failed, method, piece, soon

STEPS = (*range(30), 40, 60, 90, 130, 200)
LIMIT_S = 10
# So long that a busy machine connects before it is over.
DEADLINE_S = 0.5


class Calls:
    """The kinds of calls, each waited for in the ways there are."""

    def __init__(self, house: House, channel: grpc.aio.Channel) -> None:
        self._house, self._channel = house, channel
        self.uploads: Any = upload_grpc.UploadServiceStub(channel)

    async def unary(self) -> None:
        await self._house.get_asset(self._channel)

    async def unary_that_lasts(self) -> None:
        await self._house.get_asset(self._channel, "stuck")

    async def stream(self) -> None:
        await all_of(self._house.watch(self._channel))

    async def reading(self) -> None:
        call = self._house.watch(self._channel)
        await call.initial_metadata()
        while await call.read() is not grpc.aio.EOF:
            pass

    async def upload(self) -> None:
        await self.uploads.CreateUpload(self._pieces())

    async def writing(self) -> None:
        call = self.uploads.CreateUpload()
        try:
            async for piece in self._pieces():
                await call.write(piece)
        finally:
            call.cancel()

    async def _pieces(self) -> AsyncIterator[Any]:
        while True:
            yield upload_pb2.CreateUploadRequest(data=b"x")
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("server", ["down", "not yet connected", "connected", "near"])
@pytest.mark.parametrize("kind", [name for name in vars(Calls) if not name.startswith("_")])
async def test_a_call_ends_with_one_cancellation(house: House, kind: str, server: str) -> None:
    if server == "down":
        await house.server.stop()
    went_on: list[str] = []
    async with AsyncExitStack() as stack:
        warm = await stack.enter_async_context(house.channel(is_near=server == "near"))
        is_warm = server in ("connected", "near")
        if is_warm:
            await house.get_asset(warm)
        for steps in STEPS:
            channel = warm if is_warm else await stack.enter_async_context(house.channel())
            task = asyncio.create_task(getattr(Calls(house, channel), kind)())
            await _some(steps)
            ended_before = task.done()
            task.cancel()
            await asyncio.wait([task], timeout=LIMIT_S)
            if not ended_before and not task.cancelled():
                went_on.append(f"after {steps} steps: {task!r}")
    assert went_on == []


@pytest.mark.parametrize("gone_on", ["with an answer", "with a failure"])
async def test_a_caller_is_cancelled_though_the_call_swallows_it(gone_on: str) -> None:
    swallowed = asyncio.Event()

    async def response() -> str:
        try:
            await asyncio.Event().wait()
            return ""
        except asyncio.CancelledError:
            swallowed.set()
            if gone_on == "with a failure":
                raise grpc.aio.AioRpcError(grpc.StatusCode.OK, grpc.aio.Metadata(), grpc.aio.Metadata()) from None
            return "an answer"

    async def waiting() -> None:
        await CompletedCall(_returning(_Call(response)), lambda code: None)

    task = asyncio.create_task(waiting())
    await _some(3)
    task.cancel()
    await asyncio.wait([task], timeout=LIMIT_S)
    assert swallowed.is_set()
    assert task.cancelled()


async def test_a_refused_token_is_forgotten_by_every_kind_of_call(house: House) -> None:
    issued: list[IssuedToken] = []

    async def exchange() -> IssuedToken:
        issued.append(house.signer.issue(owner=ANN, kind=KeyKind.USER, key_id="k"))
        return IssuedToken(type(issued[-1].token)("nonsense"), issued[-1].expires_at)

    async with channels.connect(house.server.target, tokens=TokenSource(exchange, house.clock)) as channel:
        await failing(house.get_asset(channel))
        await failing(all_of(house.watch(channel)))
        await failing(house.get_asset(channel))
    assert len(issued) == 3


async def test_who_reads_and_who_writes_share_one_call(house: House) -> None:
    async with house.channel() as channel:
        call = house.watch(channel)
        first, metadata = await asyncio.gather(call.read(), call.initial_metadata())
        assert first is not grpc.aio.EOF
        assert metadata is not None
        assert not call.done()
        looking = asyncio.create_task(call.code())
        await _some(3)
        looking.cancel()
        await asyncio.wait([looking])
        assert not call.cancelled()
        call.cancel()
        assert call.cancelled()
    never_begun = house.watch(channel)
    never_begun.cancel()
    with pytest.raises(asyncio.CancelledError):
        await never_begun.read()


async def test_calls_are_completed_with_identity_request_id_and_deadline(wires: Wires) -> None:
    seen: list[Any] = []

    async def tell(request: Any, context: Any) -> Any:
        seen.append((current_caller().owner.owner_id, current_request_id(), context.time_remaining()))
        if request.data == b"stuck":
            await asyncio.Event().wait()
        return request

    wires.handlers[GET] = tell
    async with wires.connect(timeout=timedelta(seconds=DEADLINE_S)) as channel:
        with serving_request("r-3"):
            await soon(method(channel, GET)(piece()))
        assert seen[0][:2] == ("ann", "r-3") and 0 < seen[0][2] <= DEADLINE_S
        late = await failed(method(channel, GET)(piece("stuck")))
        assert late.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_token_that_was_refused_is_fetched_again(wires: Wires) -> None:
    issued: list[KeyKind] = []

    async def issue() -> IssuedToken:
        issued.append(KeyKind.USER)
        good = wires.issue()
        return good if len(issued) > 1 else IssuedToken(type(good.token)("bad"), good.expires_at)

    wires.handlers[GET] = echo
    async with wires.connect(issue) as channel:
        assert (await failed(method(channel, GET)(piece()))).code() is grpc.StatusCode.UNAUTHENTICATED
        for _ in range(2):
            assert await soon(method(channel, GET)(piece()))
    assert len(issued) == 2


async def test_without_a_token_a_call_fails_and_one_that_waits_for_it_can_be_cancelled(wires: Wires) -> None:
    asked, fail = asyncio.Event(), asyncio.Event()

    async def issue() -> IssuedToken:
        asked.set()
        await fail.wait()
        raise Unavailable("There is no key.")

    wires.handlers[GET] = echo
    async with wires.connect(issue) as channel:

        async def ask() -> Any:
            return await method(channel, GET)(piece())

        task = asyncio.create_task(ask())
        await soon(asked)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(task)
        fail.set()
        with pytest.raises(Unavailable, match="There is no key"):
            await soon(ask())
    assert not wires.begun.is_set()


class _Call:
    def __init__(self, response: Callable[[], Awaitable[Any]]) -> None:
        self._response = response

    def __await__(self) -> Any:
        return self._response().__await__()

    def cancel(self) -> bool:
        return False


def _returning(call: Any) -> Callable[[], Awaitable[Any]]:
    async def begin() -> Any:
        return call

    return begin


async def _some(steps: int) -> None:
    for _ in range(steps):
        await asyncio.sleep(0)


async def test_a_call_that_is_cancelled_waits_for_no_token_and_who_waited_goes_on() -> None:
    asked, never = asyncio.Event(), asyncio.Event()

    async def begin() -> Any:
        asked.set()
        await never.wait()

    call = CompletedCall(begin, lambda _: None)

    async def read() -> int:
        task = asyncio.current_task()
        with pytest.raises(asyncio.CancelledError):
            await call.read()
        await asyncio.sleep(0)
        return task.cancelling() if task is not None else -1

    readers = [asyncio.create_task(read()) for _ in range(2)]
    await asked.wait()
    assert call.cancel()
    done, _ = await asyncio.wait(readers, timeout=LIMIT_S)
    assert [reader.result() for reader in done] == [0, 0]
    assert call.cancelled()
