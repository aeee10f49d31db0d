"""Small outputs that are ready at the same time go in one message, and each hears what concerns it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2

from atelier.asset.v1 import upload_service_pb2 as pb
from atelier.asset.v1 import upload_service_pb2_grpc
from atelier_worker.together import CALLS_AT_ONCE, MOST_TOGETHER
from atelier_worker.whole_outputs import MOST_BYTES_TOGETHER, WholeOutputs
from tests.atelier_worker.fake_router import FakeAssets


class Together(FakeAssets):
    """Takes outputs whole, alone and together; each call waits until it may end."""

    def __init__(self, *, first_release: bool = False) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.entered = asyncio.Semaphore(0)
        self.cancelled = asyncio.Event()
        self.together: list[list[str]] = []
        self.not_taken = 0
        self.refused: set[str] = set()
        self._first_release = first_release

    async def UploadOutput(self, request: pb.UploadOutputRequest, context: Any) -> Any:
        await self._enter("UploadOutput", context)
        await self._wait()
        return pb.UploadOutputResponse(receipt=f"alone-{request.asset_index}")

    async def UploadOutputs(self, request: pb.UploadOutputsRequest, context: Any) -> Any:
        if self._first_release:
            self.not_taken += 1
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "an asset service of an earlier release")
        await self._enter("UploadOutputs", context)
        self.together.append([one.lease_token for one in request.outputs])
        await self._wait()
        return pb.UploadOutputsResponse(answers=[self._answer(one) for one in request.outputs])

    async def _wait(self) -> None:
        self.entered.release()
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    def _answer(self, one: pb.LeasedOutput) -> pb.OutputAnswer:
        if one.lease_token in self.refused:
            return pb.OutputAnswer(refused=status_pb2.Status(code=3, message="no picture"))
        return pb.OutputAnswer(stored=pb.UploadOutputResponse(receipt=f"together-{one.output.asset_index}"))


@asynccontextmanager
async def serving(assets: FakeAssets) -> AsyncIterator[WholeOutputs]:
    """Serve, and give what sends there."""
    server = grpc.aio.server()
    upload_service_pb2_grpc.add_UploadServiceServicer_to_server(assets, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            outputs = WholeOutputs(channel)
            yield outputs
            await outputs.close()
    finally:
        await server.stop(None)


def request(index: int, size_bytes: int = 3) -> pb.UploadOutputRequest:
    """Return an output of as many bytes."""
    return pb.UploadOutputRequest(asset_index=index, files=[pb.OutputFile(data=bytes(size_bytes))])


async def busy(assets: Together, outputs: WholeOutputs) -> list[asyncio.Task[str]]:
    """Have as many calls under way as may be, one output in each."""
    sent = [asyncio.ensure_future(outputs.send(f"first-{n}", request(n))) for n in range(CALLS_AT_ONCE)]
    for _ in sent:
        await assets.entered.acquire()
    return sent


async def waiting(outputs: WholeOutputs, *requests: pb.UploadOutputRequest) -> list[asyncio.Task[str]]:
    """Have outputs wait for a call, each under a token named after its index."""
    sent = [asyncio.ensure_future(outputs.send(str(one.asset_index), one)) for one in requests]
    await asyncio.sleep(0)
    return sent


async def test_what_comes_while_calls_are_under_way_goes_together() -> None:
    assets = Together()
    async with serving(assets) as outputs, asyncio.timeout(20):
        first = await busy(assets, outputs)
        rest = await waiting(outputs, *map(request, range(10, 10 + MOST_TOGETHER + 1)))
        assets.gate.set()
        assert await asyncio.gather(*first) == [f"alone-{n}" for n in range(CALLS_AT_ONCE)]
        expected = [f"together-{n}" for n in range(10, 10 + MOST_TOGETHER)]
        assert await asyncio.gather(*rest) == [*expected, f"alone-{10 + MOST_TOGETHER}"]
    assert assets.together == [[str(n) for n in range(10, 10 + MOST_TOGETHER)]]


async def test_no_message_is_too_large_for_its_service() -> None:
    assets = Together()
    async with serving(assets) as outputs, asyncio.timeout(20):
        first = await busy(assets, outputs)
        # With what a message has besides its bytes, this server takes no more than 4 MiB.
        half = MOST_BYTES_TOGETHER // 2 - 100
        rest = await waiting(outputs, *(request(n, half) for n in (10, 11, 12, 13)))
        assets.gate.set()
        await asyncio.gather(*first, *rest)
    assert sorted(assets.together) == [["10", "11"], ["12", "13"]]


async def test_one_that_is_refused_harms_no_other() -> None:
    assets = Together()
    assets.refused = {"11"}
    async with serving(assets) as outputs, asyncio.timeout(20):
        await busy(assets, outputs)
        rest = await waiting(outputs, *map(request, (10, 11, 12)))
        assets.gate.set()
        done = await asyncio.gather(*rest, return_exceptions=True)
    assert (done[0], done[2]) == ("together-10", "together-12")
    assert isinstance(done[1], grpc.aio.AioRpcError)
    assert (done[1].code(), done[1].details()) == (grpc.StatusCode.INVALID_ARGUMENT, "no picture")


async def test_after_a_failure_that_others_shared_an_output_goes_alone() -> None:
    assets = Together()
    assets.failures["UploadOutputs"].append(grpc.StatusCode.INTERNAL)
    async with serving(assets) as outputs, asyncio.timeout(20):
        await busy(assets, outputs)
        rest = await waiting(outputs, *map(request, (10, 11)))
        assets.gate.set()
        done = await asyncio.gather(*rest, return_exceptions=True)
        assert {one.code() for one in done if isinstance(one, grpc.aio.AioRpcError)} == {grpc.StatusCode.INTERNAL}
        assets.gate.clear()
        await busy(assets, outputs)
        again = asyncio.ensure_future(outputs.send("10", request(10), alone=True))
        # It waits for none of those that are under way.
        await assets.entered.acquire()
        assets.gate.set()
        assert await again == "alone-10"


@pytest.mark.parametrize("code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAUTHENTICATED])
async def test_a_call_that_is_refused_for_one_of_them_harms_no_other(code: grpc.StatusCode) -> None:
    """An empty file, which a message must not have; or the lease under which the call is made is over."""
    assets = Together()
    assets.failures["UploadOutputs"].append(code)
    async with serving(assets) as outputs, asyncio.timeout(20):
        await busy(assets, outputs)
        rest = await waiting(outputs, *map(request, (10, 11)))
        assets.gate.set()
        assert await asyncio.gather(*rest) == ["alone-10", "alone-11"]
        # And those after them go together again.
        assets.gate.clear()
        await busy(assets, outputs)
        rest = await waiting(outputs, *map(request, (12, 13)))
        assets.gate.set()
        assert await asyncio.gather(*rest) == ["together-12", "together-13"]


async def test_an_earlier_release_is_asked_once_and_gets_each_alone() -> None:
    assets = Together(first_release=True)
    async with serving(assets) as outputs, asyncio.timeout(20):
        await busy(assets, outputs)
        # More than all calls take that may be under way until the answer is there.
        numbers = range(10, 12 + CALLS_AT_ONCE * MOST_TOGETHER)
        rest = await waiting(outputs, *map(request, numbers))
        assets.gate.set()
        assert await asyncio.gather(*rest) == [f"alone-{n}" for n in numbers]
        asked = assets.not_taken
        assert 1 <= asked <= CALLS_AT_ONCE
        again = await asyncio.gather(*(outputs.send("t", request(n)) for n in range(CALLS_AT_ONCE + 2)))
    assert again == [f"alone-{n}" for n in range(CALLS_AT_ONCE + 2)]
    assert assets.not_taken == asked


async def test_who_leaves_takes_no_other_along_and_the_last_ends_the_call() -> None:
    assets = Together()
    async with serving(assets) as outputs, asyncio.timeout(20):
        first = await busy(assets, outputs)
        rest = await waiting(outputs, *map(request, (10, 11, 12)))
        rest[2].cancel()
        await asyncio.sleep(0)
        first[0].cancel()
        await assets.cancelled.wait()
        await assets.entered.acquire()
        assert assets.together == [["10", "11"]], "one that left is not sent"
        rest[0].cancel()
        assets.gate.set()
        assert await rest[1] == "together-11"


async def test_when_all_that_waited_have_left_nothing_is_sent() -> None:
    assets, said = Together(), list[dict[str, Any]]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
    async with serving(assets) as outputs, asyncio.timeout(20):
        first = await busy(assets, outputs)
        for one in await waiting(outputs, *map(request, (10, 11))):
            one.cancel()
        assets.gate.set()
        await asyncio.gather(*first)
        assert await outputs.send("12", request(12)) == "alone-12"
    gc.collect()
    assert assets.together == []
    assert said == []


async def test_a_service_that_answers_for_fewer_has_answered_for_none() -> None:
    class Short(Together):
        async def UploadOutputs(self, request: pb.UploadOutputsRequest, context: Any) -> Any:
            return pb.UploadOutputsResponse(answers=[self._answer(request.outputs[0])])

    assets = Short()
    async with serving(assets) as outputs, asyncio.timeout(20):
        await busy(assets, outputs)
        rest = await waiting(outputs, *map(request, (10, 11)))
        assets.gate.set()
        done = await asyncio.gather(*rest, return_exceptions=True)
    assert {one.code() for one in done if isinstance(one, grpc.aio.AioRpcError)} == {grpc.StatusCode.INTERNAL}


async def test_at_the_end_nobody_waits() -> None:
    assets = Together()
    async with serving(assets) as outputs, asyncio.timeout(20):
        first = await busy(assets, outputs)
        rest = await waiting(outputs, *map(request, (10, 11)))
        await outputs.close()
        done = await asyncio.gather(*first, *rest, return_exceptions=True)
    assert {type(one) for one in done} == {asyncio.CancelledError}
