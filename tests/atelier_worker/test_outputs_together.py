"""Small outputs that are ready at the same time go in one message, and each hears what concerns it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2

from atelier.asset.v1 import upload_service_pb2 as pb
from atelier.asset.v1 import upload_service_pb2_grpc
from atelier.type.v1 import media_pb2
from atelier_worker import together as together_module
from atelier_worker import whole_outputs
from atelier_worker.together import CALLS_AT_ONCE, MOST_TOGETHER, Waiting
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


class Sender:
    """Sends outputs as leases do, each with a file of its own."""

    def __init__(self, outputs: WholeOutputs, folder: Path) -> None:
        self._outputs = outputs
        self._folder = folder

    def path(self, index: int) -> Path:
        """Return where the file of an output lies."""
        return self._folder / str(index)

    def send(self, index: int, size_bytes: int = 3, *, alone: bool = False) -> asyncio.Task[str | None]:
        """Send an output of as many bytes under a token that is named after its index."""
        self.path(index).write_bytes(bytes(size_bytes))
        files = {media_pb2.RENDITION_KIND_UNSPECIFIED: self.path(index)}
        return asyncio.ensure_future(self._outputs.send(str(index), index, files, alone=alone))

    async def busy(self, assets: Together) -> list[asyncio.Task[str | None]]:
        """Have as many calls under way as may be, one output in each."""
        sent = []
        for number in range(CALLS_AT_ONCE):
            sent.append(self.send(number))
            await assets.entered.acquire()
        return sent

    async def waiting(self, *indexes: int, size_bytes: int = 3) -> list[asyncio.Task[str | None]]:
        """Have outputs wait for a call."""
        sent = [self.send(index, size_bytes) for index in indexes]
        await asyncio.sleep(0)
        return sent


@pytest.mark.parametrize(("outputs_there", "calls"), [(16, [16]), (18, [9, 9]), (40, [16, 16, 8])])
async def test_what_is_ready_at_the_same_moment_goes_in_few_and_evenly_full_calls(
    tmp_path: Path, outputs_there: int, calls: list[int]
) -> None:
    assets = Together()
    async with serving(assets) as outputs, asyncio.timeout(20):
        sender = Sender(outputs, tmp_path)
        sent = [sender.send(n) for n in range(outputs_there)]
        for _ in calls[:CALLS_AT_ONCE]:
            await assets.entered.acquire()
        assets.gate.set()
        assert await asyncio.gather(*sent) == [f"together-{n}" for n in range(outputs_there)]
    assert [len(tokens) for tokens in assets.together] == calls


async def test_beside_a_lone_one_no_call_is_filled(tmp_path: Path) -> None:
    """Who is answered often comes again at once: one and fourteen would stay one and fourteen."""
    assets = Together()
    async with serving(assets) as outputs, asyncio.timeout(20):
        sender = Sender(outputs, tmp_path)
        first = sender.send(0)
        await assets.entered.acquire()
        rest = await sender.waiting(*range(1, 15))
        await assets.entered.acquire()
        assert [len(tokens) for tokens in assets.together] == [8]
        assets.gate.set()
        await asyncio.gather(first, *rest)
    assert [len(tokens) for tokens in assets.together] == [8, 6]


async def test_a_lone_one_waits_for_one_turn_of_the_loop() -> None:
    began = asyncio.Event()

    async def send(items: list[Waiting[int, int]]) -> None:
        began.set()
        items[0].answer.set_result(2)

    together = together_module.Together[int, int]("one", send)
    answer = asyncio.ensure_future(together.go(1))
    # It asks, a turn passes, and the call is made.
    for _ in range(3):
        assert not began.is_set()
        await asyncio.sleep(0)
    assert began.is_set()
    assert await answer == 2


async def test_what_comes_while_calls_are_under_way_goes_together(tmp_path: Path) -> None:
    assets = Together()
    async with serving(assets) as outputs, asyncio.timeout(20):
        sender = Sender(outputs, tmp_path)
        first = await sender.busy(assets)
        rest = await sender.waiting(*range(10, 10 + 2 * MOST_TOGETHER + 1))
        assets.gate.set()
        assert await asyncio.gather(*first) == [f"alone-{n}" for n in range(CALLS_AT_ONCE)]
        await asyncio.gather(*rest)
        assert await rest[-1] == f"alone-{10 + 2 * MOST_TOGETHER}"
    assert sorted(assets.together) == [
        [str(n) for n in range(start, start + MOST_TOGETHER)] for start in (10, 10 + MOST_TOGETHER)
    ]


async def test_no_message_is_too_large_for_its_service(tmp_path: Path) -> None:
    assets = Together()
    async with serving(assets) as outputs, asyncio.timeout(20):
        sender = Sender(outputs, tmp_path)
        first = await sender.busy(assets)
        # With what a message has besides its bytes, this server takes no more than 4 MiB.
        rest = await sender.waiting(*range(10, 16), size_bytes=MOST_BYTES_TOGETHER // 2 - 100)
        assets.gate.set()
        await asyncio.gather(*first, *rest)
    assert {len(tokens) for tokens in assets.together} == {2}
    assert sorted(token for tokens in assets.together for token in tokens) == [str(n) for n in range(10, 16)]


async def test_the_files_of_a_call_are_read_in_one_go_when_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []

    def count(outputs: Sequence[Any], files: Any) -> Any:
        read.append(len(outputs))
        return _read(outputs, files)

    _read = whole_outputs._read
    monkeypatch.setattr(whole_outputs, "_read", count)
    assets = Together()
    async with serving(assets) as outputs, asyncio.timeout(20):
        sender = Sender(outputs, tmp_path)
        first = await sender.busy(assets)
        rest = await sender.waiting(10, 11, 12, 13)
        assert read == [1, 1], "what waits is not in memory"
        assets.gate.set()
        await asyncio.gather(*first, *rest)
    assert read == [1, 1, 4]


async def test_one_that_cannot_be_read_or_is_too_large_harms_no_other(tmp_path: Path) -> None:
    assets = Together()
    async with serving(assets) as outputs, asyncio.timeout(20):
        sender = Sender(outputs, tmp_path)
        first = sender.send(0)
        await assets.entered.acquire()
        rest = await sender.waiting(*range(10, 17))
        sender.path(10).unlink()
        sender.path(12).write_bytes(bytes((4 << 20) + 1))
        assets.gate.set()
        done = await asyncio.gather(*rest, return_exceptions=True)
        await first
    assert isinstance(done[0], FileNotFoundError)
    assert done[2] is None
    assert [done[1], *done[3:]] == [f"together-{n}" for n in (11, 13, 14, 15, 16)]
    # Two calls are under way: either may come first.
    assert sorted(assets.together) == [["11", "13"], ["14", "15", "16"]]


async def test_one_that_is_refused_harms_no_other(tmp_path: Path) -> None:
    assets = Together()
    assets.refused = {"11"}
    async with serving(assets) as outputs, asyncio.timeout(20):
        sender = Sender(outputs, tmp_path)
        await sender.busy(assets)
        rest = await sender.waiting(10, 11, 12)
        assets.gate.set()
        done = await asyncio.gather(*rest, return_exceptions=True)
    assert (done[0], done[2]) == ("together-10", "together-12")
    assert isinstance(done[1], grpc.aio.AioRpcError)
    assert (done[1].code(), done[1].details()) == (grpc.StatusCode.INVALID_ARGUMENT, "no picture")


async def test_after_a_failure_that_others_shared_an_output_goes_alone(tmp_path: Path) -> None:
    assets = Together()
    assets.failures["UploadOutputs"].append(grpc.StatusCode.INTERNAL)
    async with serving(assets) as outputs, asyncio.timeout(20):
        sender = Sender(outputs, tmp_path)
        await sender.busy(assets)
        rest = await sender.waiting(10, 11)
        assets.gate.set()
        done = await asyncio.gather(*rest, return_exceptions=True)
        assert {one.code() for one in done if isinstance(one, grpc.aio.AioRpcError)} == {grpc.StatusCode.INTERNAL}
        assets.gate.clear()
        await sender.busy(assets)
        again = sender.send(10, alone=True)
        # It waits for none of those that are under way.
        await assets.entered.acquire()
        assets.gate.set()
        assert await again == "alone-10"


@pytest.mark.parametrize("code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAUTHENTICATED])
async def test_a_call_that_is_refused_for_one_of_them_harms_no_other(code: grpc.StatusCode, tmp_path: Path) -> None:
    """An empty file, which a message must not have; or the lease under which the call is made is over."""
    assets = Together()
    assets.failures["UploadOutputs"].append(code)
    async with serving(assets) as outputs, asyncio.timeout(20):
        sender = Sender(outputs, tmp_path)
        await sender.busy(assets)
        rest = await sender.waiting(10, 11)
        assets.gate.set()
        assert await asyncio.gather(*rest) == ["alone-10", "alone-11"]
        # And those after them go together again.
        assets.gate.clear()
        await sender.busy(assets)
        rest = await sender.waiting(12, 13)
        assets.gate.set()
        assert await asyncio.gather(*rest) == ["together-12", "together-13"]


async def test_an_earlier_release_is_asked_once_and_gets_each_alone(tmp_path: Path) -> None:
    assets = Together(first_release=True)
    async with serving(assets) as outputs, asyncio.timeout(20):
        sender = Sender(outputs, tmp_path)
        await sender.busy(assets)
        # More than all calls take that may be under way until the answer is there.
        numbers = range(10, 12 + CALLS_AT_ONCE * MOST_TOGETHER)
        rest = await sender.waiting(*numbers)
        assets.gate.set()
        assert await asyncio.gather(*rest) == [f"alone-{n}" for n in numbers]
        asked = assets.not_taken
        assert 1 <= asked <= CALLS_AT_ONCE
        again = await asyncio.gather(*map(sender.send, range(CALLS_AT_ONCE + 2)))
    assert again == [f"alone-{n}" for n in range(CALLS_AT_ONCE + 2)]
    assert assets.not_taken == asked


async def test_who_leaves_takes_no_other_along_and_the_last_ends_the_call(tmp_path: Path) -> None:
    assets = Together()
    async with serving(assets) as outputs, asyncio.timeout(20):
        sender = Sender(outputs, tmp_path)
        first = await sender.busy(assets)
        rest = await sender.waiting(10, 11, 12)
        rest[2].cancel()
        await asyncio.sleep(0)
        first[0].cancel()
        await assets.cancelled.wait()
        await assets.entered.acquire()
        assert assets.together == [["10", "11"]], "one that left is not sent"
        rest[0].cancel()
        assets.gate.set()
        assert await rest[1] == "together-11"


async def test_when_all_that_waited_have_left_nothing_is_sent(tmp_path: Path) -> None:
    assets, said = Together(), list[dict[str, Any]]()
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
    async with serving(assets) as outputs, asyncio.timeout(20):
        sender = Sender(outputs, tmp_path)
        first = await sender.busy(assets)
        for one in await sender.waiting(10, 11):
            one.cancel()
        assets.gate.set()
        await asyncio.gather(*first)
        assert await sender.send(12) == "alone-12"
    gc.collect()
    assert assets.together == []
    assert said == []


async def test_a_service_that_answers_for_fewer_has_answered_for_none(tmp_path: Path) -> None:
    class Short(Together):
        async def UploadOutputs(self, request: pb.UploadOutputsRequest, context: Any) -> Any:
            return pb.UploadOutputsResponse(answers=[self._answer(request.outputs[0])])

    assets = Short()
    async with serving(assets) as outputs, asyncio.timeout(20):
        sender = Sender(outputs, tmp_path)
        await sender.busy(assets)
        rest = await sender.waiting(10, 11)
        assets.gate.set()
        done = await asyncio.gather(*rest, return_exceptions=True)
    assert {one.code() for one in done if isinstance(one, grpc.aio.AioRpcError)} == {grpc.StatusCode.INTERNAL}


@pytest.mark.parametrize("several", [True, False])
async def test_a_fault_of_what_sends_is_told_to_all_who_wait(several: bool) -> None:
    """As a cancellation it would pass for a stage that was stopped, and its output be missing without a word."""

    async def send(items: list[Waiting[int, int]]) -> None:
        if len(items) > 1 and not several:
            await together.each_alone(items)
            return
        items[0].answer.set_result(0)
        raise ZeroDivisionError(items[-1].what)

    together = together_module.Together[int, int]("one", send)
    first, *rest = await asyncio.gather(*map(together.go, range(3)), return_exceptions=True)
    assert first == 0
    if several:
        assert list(map(repr, rest)) == ["ZeroDivisionError(2)"] * 2
    else:
        assert rest == [0, 0]


async def test_a_call_that_nobody_stopped_is_no_cancellation() -> None:
    """What a call waits for may be cancelled by itself, such as by its channel that is closed."""

    async def send(_: list[Waiting[int, int]]) -> None:
        never = asyncio.get_running_loop().create_future()
        never.cancel()
        await never

    together = together_module.Together[int, int]("one", send)
    done = await asyncio.gather(*map(together.go, range(2)), return_exceptions=True)
    assert {one.code() for one in done if isinstance(one, grpc.aio.AioRpcError)} == {grpc.StatusCode.CANCELLED}
    assert len(done) == 2


async def test_at_the_end_nobody_waits(tmp_path: Path) -> None:
    assets = Together()
    async with serving(assets) as outputs, asyncio.timeout(20):
        sender = Sender(outputs, tmp_path)
        first = await sender.busy(assets)
        rest = await sender.waiting(10, 11)
        await outputs.close()
        done = await asyncio.gather(*first, *rest, return_exceptions=True)
    assert {type(one) for one in done} == {asyncio.CancelledError}
