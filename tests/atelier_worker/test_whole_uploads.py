"""Small outputs go in one message where the service takes them so, and file by file where it does not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from atelier.asset.v1 import upload_service_pb2 as pb
from atelier.asset.v1 import upload_service_pb2_grpc
from atelier_worker.patience import Patience, TransferFailed
from atelier_worker.uploads import Transfers
from atelier_worker.whole_outputs import WHOLE_BYTES
from tests.atelier_worker.fake_router import FakeAssets


class Whole(FakeAssets):
    """Takes outputs whole too, when it is not told to refuse them."""

    def __init__(self) -> None:
        super().__init__()
        self.whole: list[pb.UploadOutputRequest] = []

    async def UploadOutput(self, request: pb.UploadOutputRequest, context: Any) -> Any:
        await self._enter("UploadOutput", context)
        self.whole.append(request)
        return pb.UploadOutputResponse(receipt=f"whole-{request.asset_index}")


@asynccontextmanager
async def serving(assets: FakeAssets) -> AsyncIterator[Transfers]:
    server = grpc.aio.server()
    upload_service_pb2_grpc.add_UploadServiceServicer_to_server(assets, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield Transfers(channel, "token", Patience(timedelta(seconds=5), 0.001))
    finally:
        await server.stop(None)


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str, int], Path]:
    def make(name: str, size_bytes: int) -> Path:
        (tmp_path / name).write_bytes(name[:1].encode() * size_bytes)
        return tmp_path / name

    return make


async def test_a_small_output_goes_with_its_renditions_in_one_message(file: Callable[[str, int], Path]) -> None:
    assets = Whole()
    async with serving(assets) as transfers:
        receipt = await transfers.upload_output(2, file("output", 9), {"thumb_256": file("thumb", 3)})
    assert (receipt, assets.calls) == ("whole-2", ["UploadOutput"])
    assert [(entry.rendition, entry.data) for entry in assets.whole[0].files] == [(0, b"o" * 9), (1, b"t" * 3)]
    assert assets.tokens == {"token"}


async def test_a_call_that_breaks_off_is_repeated(file: Callable[[str, int], Path]) -> None:
    assets = Whole()
    assets.failures["UploadOutput"].extend([grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED])
    async with serving(assets) as transfers:
        assert await transfers.upload_output(0, file("output", 9), {}) == "whole-0"
    assert assets.calls == ["UploadOutput"] * 3


async def test_a_service_that_does_not_know_it_is_asked_once(file: Callable[[str, int], Path]) -> None:
    assets = Whole()
    assets.failures["UploadOutput"].append(grpc.StatusCode.UNIMPLEMENTED)
    async with serving(assets) as transfers:
        for index in (0, 1):
            assert await transfers.upload_output(index, file("output", 9), {}) == f"receipt-{index}"
    assert assets.calls == ["UploadOutput", *["StartUpload", "WriteUpload", "FinishUpload"] * 2]


async def test_what_is_too_large_goes_in_pieces(file: Callable[[str, int], Path]) -> None:
    assets = Whole()
    async with serving(assets) as transfers:
        assert await transfers.upload_output(0, file("output", WHOLE_BYTES + 1), {}) == "receipt-0"
    assert "UploadOutput" not in assets.calls


async def test_a_rendition_that_is_refused_does_not_cost_the_output(file: Callable[[str, int], Path]) -> None:
    assets = Whole()
    assets.refuse_renditions = True
    assets.failures["UploadOutput"].append(grpc.StatusCode.INVALID_ARGUMENT)
    async with serving(assets) as transfers:
        assert await transfers.upload_output(0, file("output", 9), {"thumb_256": file("thumb", 3)}) == "receipt-0"


async def test_an_output_that_is_refused_is_not_sent_again(file: Callable[[str, int], Path]) -> None:
    assets = Whole()
    assets.failures["UploadOutput"].append(grpc.StatusCode.INVALID_ARGUMENT)
    async with serving(assets) as transfers:
        with pytest.raises(TransferFailed) as failed:
            await transfers.upload_output(0, file("output", 9), {})
    assert not failed.value.retryable
    assert assets.calls == ["UploadOutput"]
