"""Small outputs that a worker hands over as files, and what it does where that does not work."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from atelier.asset.v1 import upload_service_pb2 as pb
from atelier.asset.v1 import upload_service_pb2_grpc
from atelier.type.v1 import media_pb2
from atelier_worker import handover_files
from atelier_worker.handover_files import MOST_KEPT, HandoverFile, HandoverFiles
from atelier_worker.whole_outputs import WholeOutputs
from service_kit.errors import ErrorReason, FailedPrecondition, FieldProblem, InvalidArgument, Unauthenticated
from service_kit.file_copies import copy_bytes
from tests.atelier_worker.fake_router import FakeAssets

SIZE = 200_000
# It does not know `handed_over_bytes`, so the bytes are missing, and their digests.
EARLIER = InvalidArgument.of(
    [
        FieldProblem(f"outputs[{number}].output.files[0].{name}", "is required and must not be empty")
        for number in range(2)
        for name in ("sha256", "data")
    ],
    ErrorReason.MISSING_FIELD,
)
NOT_FOUND = FailedPrecondition("No file of that name.", ErrorReason.INCOMPLETE_UPLOAD)


class Beside(FakeAssets):
    """Reads what is handed over, as a service on the same machine; or says why not."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.got: dict[str, bytes] = {}
        self.files: list[str] = []
        self.gate: asyncio.Event | None = None
        self.entered = asyncio.Semaphore(0)

    async def UploadOutput(self, request: pb.UploadOutputRequest, context: Any) -> Any:
        await self._enter("UploadOutput", context)
        self.got[str(request.asset_index)] = b"".join(file.data for file in request.files)
        return pb.UploadOutputResponse(receipt=f"message-{request.asset_index}")

    async def UploadOutputs(self, request: pb.UploadOutputsRequest, context: Any) -> Any:
        name = "handed" if request.handover_name else "UploadOutputs"
        await self._enter(name, context)
        content = b""
        if request.handover_name:
            self.files.append(request.handover_name)
            content = await asyncio.to_thread((self.folder / request.handover_name).read_bytes)
        self.entered.release()
        if self.gate is not None:
            await self.gate.wait()
        for one in request.outputs:
            assert not (content and any(file.data or file.sha256 for file in one.output.files))
            size_bytes = sum(file.handed_over_bytes for file in one.output.files)
            self.got[one.lease_token] = content[:size_bytes] or b"".join(file.data for file in one.output.files)
            content = content[size_bytes:]
        stored = [pb.UploadOutputResponse(receipt=f"{name}-{one.output.asset_index}") for one in request.outputs]
        return pb.UploadOutputsResponse(answers=[pb.OutputAnswer(stored=one) for one in stored])


class Worker:
    """Sends outputs of a size that is worth a file, each with other bytes."""

    def __init__(self, outputs: WholeOutputs, assets: Beside, sources: Path) -> None:
        self.outputs = outputs
        self.assets = assets
        self._sources = sources
        self.now = 0.0

    def path(self, index: int) -> Path:
        return self._sources / f"output {index}"

    def content(self, index: int, size_bytes: int = SIZE) -> bytes:
        return bytes([index + 1]) * size_bytes

    def write(self, *indexes: int, size_bytes: int = SIZE) -> None:
        for index in indexes:
            self.path(index).write_bytes(self.content(index, size_bytes))

    def begin(self, *indexes: int) -> list[asyncio.Task[str | None]]:
        sent = [
            self.outputs.send(str(index), index, {media_pb2.RENDITION_KIND_UNSPECIFIED: self.path(index)})
            for index in indexes
        ]
        return list(map(asyncio.ensure_future, sent))

    async def send(self, *indexes: int, size_bytes: int = SIZE) -> Sequence[Any]:
        self.write(*indexes, size_bytes=size_bytes)
        return await asyncio.gather(*self.begin(*indexes), return_exceptions=True)

    async def send_right(self, *indexes: int) -> Sequence[Any]:
        receipts = await self.send(*indexes)
        for index in indexes:
            assert self.assets.got[str(index)] == self.content(index)
        return receipts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "handover").mkdir(mode=0o700)
    return tmp_path / "handover"


@asynccontextmanager
async def working(folder: Path) -> AsyncIterator[Worker]:
    """Serve, and give what sends there. At the end nothing is left, neither in the folder nor open."""
    assets, server = Beside(folder), grpc.aio.server()
    upload_service_pb2_grpc.add_UploadServiceServicer_to_server(assets, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    (sources := folder.parent / "sources").mkdir()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel, asyncio.timeout(20):
            outputs = WholeOutputs(channel, handover=folder, now=lambda: worker.now)
            worker = Worker(outputs, assets, sources)
            yield worker
            await outputs.close()
    finally:
        await server.stop(None)
    assert opened(folder) == []
    assert names(folder) == []


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.exists() else []


def opened(folder: Path) -> list[Path]:
    return [each for each in Path("/proc/self/fd").iterdir() if each.resolve().is_relative_to(folder)]


async def test_a_file_is_used_again_once_the_service_has_answered(folder: Path) -> None:
    async with working(folder) as worker:
        assert await worker.send_right(0, 1) == ["handed-0", "handed-1"]
        assert await worker.send_right(2, 3) == ["handed-2", "handed-3"]
        assert len(worker.assets.files) == 2
        assert len(set(worker.assets.files)) == 1
        assert worker.assets.calls == ["handed"] * 2


async def test_two_calls_at_once_never_share_a_file(folder: Path) -> None:
    async with working(folder) as worker:
        await worker.send_right(0, 1)
        worker.assets.gate = asyncio.Event()
        worker.assets.entered = asyncio.Semaphore(0)
        worker.write(2, 3, 4, 5)
        first = worker.begin(2, 3)
        await worker.assets.entered.acquire()
        second = worker.begin(4, 5)
        await worker.assets.entered.acquire()
        assert len(set(worker.assets.files[1:])) == 2
        worker.assets.gate.set()
        await asyncio.gather(*first, *second)
        assert {index: worker.assets.got[str(index)] for index in range(6)} == {n: worker.content(n) for n in range(6)}


@pytest.mark.parametrize(("indexes", "size_bytes", "kind"), [([0], 300_000, "handed"), ([0, 1], 1000, "UploadOutputs")])
async def test_what_is_worth_a_file_goes_with_one(folder: Path, indexes: list[int], size_bytes: int, kind: str) -> None:
    async with working(folder) as worker:
        assert await worker.send(*indexes, size_bytes=size_bytes) == [f"{kind}-{index}" for index in indexes]


async def test_of_no_use_it_is_tried_again_after_a_while(folder: Path) -> None:
    async with working(folder) as worker:
        await worker.send_right(0, 1)
        worker.assets.refusals["handed"] = NOT_FOUND
        assert await worker.send_right(2, 3) == ["message-2", "message-3"]
        del worker.assets.refusals["handed"]
        worker.now = 599.0
        assert await worker.send_right(4, 5) == ["UploadOutputs-4", "UploadOutputs-5"]
        worker.now = 601.0
        assert await worker.send_right(6, 7) == ["handed-6", "handed-7"]


@pytest.mark.parametrize("it_knows_the_call", [True, False])
async def test_a_service_of_an_earlier_release_is_asked_once(folder: Path, it_knows_the_call: bool) -> None:
    async with working(folder) as worker:
        if it_knows_the_call:
            worker.assets.refusals["handed"] = EARLIER
        else:
            worker.assets.failures["handed"].extend([grpc.StatusCode.UNIMPLEMENTED] * 9)
        assert await worker.send_right(0, 1) == ["message-0", "message-1"]
        assert await worker.send_right(2, 3) == ["UploadOutputs-2", "UploadOutputs-3"]
        assert worker.assets.calls.count("handed") == 1


async def test_a_service_that_went_back_to_an_earlier_release_is_asked_once_more(folder: Path) -> None:
    async with working(folder) as worker:
        await worker.send_right(0, 1)
        worker.assets.refusals["handed"] = EARLIER
        for first in (2, 4, 6):
            await worker.send_right(first, first + 1)
        assert worker.assets.calls.count("handed") == 2


@pytest.mark.parametrize(
    "error",
    [
        InvalidArgument.field("asset_index", "must be 0..64, got 65"),
        Unauthenticated("The lease is over.", ErrorReason.INVALID_LEASE),
    ],
)
async def test_a_call_that_is_refused_for_what_is_in_it_does_not_end_the_way(folder: Path, error: Any) -> None:
    async with working(folder) as worker:
        # Neither when it comes first, nor twice in a row.
        worker.assets.refusals["handed"] = error
        assert await worker.send_right(0, 1) == ["message-0", "message-1"]
        assert await worker.send_right(2, 3) == ["message-2", "message-3"]
        del worker.assets.refusals["handed"]
        assert await worker.send_right(4, 5) == ["handed-4", "handed-5"]
        worker.assets.refusals["handed"] = error
        assert await worker.send_right(6, 7) == ["message-6", "message-7"]
        del worker.assets.refusals["handed"]
        assert await worker.send_right(8, 9) == ["handed-8", "handed-9"]
        assert len(set(worker.assets.files)) == 2, "of the one that was refused nobody knows who reads it"


@pytest.mark.parametrize("code", [grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE])
async def test_after_a_call_that_broke_off_its_file_is_gone(folder: Path, code: grpc.StatusCode) -> None:
    async with working(folder) as worker:
        worker.assets.failures["handed"].append(code)
        assert {error.code() for error in await worker.send(0, 1)} == {code}
        assert names(folder) == []
        assert await worker.send_right(0, 1) == ["handed-0", "handed-1"]


async def test_the_file_of_a_call_that_everybody_left_is_never_used_again(folder: Path) -> None:
    async with working(folder) as worker:
        worker.assets.gate = asyncio.Event()
        worker.write(0, 1)
        sent = worker.begin(0, 1)
        await worker.assets.entered.acquire()
        for one in sent:
            one.cancel()
        await asyncio.gather(*sent, return_exceptions=True)
        worker.assets.gate.set()
        await worker.send_right(2, 3)
        assert len(set(worker.assets.files)) == 2


async def test_closing_waits_for_a_file_that_is_being_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker ends its loop after that: nobody would be there to remove the file."""
    entered, go_on = threading.Semaphore(0), threading.Event()

    def slow(*args: Any, **places: Any) -> int:
        entered.release()
        go_on.wait(20)
        return copy_bytes(*args, **places)

    monkeypatch.setattr(handover_files, "copy_bytes", slow)
    async with working(folder) as worker:
        worker.write(0, 1)
        sent = worker.begin(0, 1)
        assert await asyncio.to_thread(entered.acquire, timeout=20)
        closing = asyncio.ensure_future(worker.outputs.close())
        for _ in range(5):
            await asyncio.sleep(0)
        assert not closing.done()
        go_on.set()
        await closing
        assert names(folder) == []
        await asyncio.wait(sent)


async def test_who_leaves_while_the_file_is_written_leaves_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, go_on = threading.Semaphore(0), threading.Event()

    def slow(*args: Any, **places: Any) -> int:
        entered.release()
        go_on.wait(20)
        return copy_bytes(*args, **places)

    discard, discarded = HandoverFiles.discard, asyncio.Event()

    def noted(files: HandoverFiles, file: HandoverFile) -> None:
        discard(files, file)
        discarded.set()

    monkeypatch.setattr(HandoverFiles, "discard", noted)
    monkeypatch.setattr(handover_files, "copy_bytes", slow)
    async with working(folder) as worker:
        worker.write(0, 1)
        sent = worker.begin(0, 1)
        assert await asyncio.to_thread(entered.acquire, timeout=20)
        for one in sent:
            one.cancel()
        await asyncio.gather(*sent, return_exceptions=True)
        go_on.set()
        assert await worker.send_right(2, 3) == ["handed-2", "handed-3"]
        await discarded.wait()
        assert len(names(folder)) == 1


@pytest.mark.parametrize("done", [100, SIZE + 100])
async def test_a_file_that_gets_another_size_while_it_is_copied_goes_as_it_is_then(
    folder: Path, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    changed = list[int]()

    async with working(folder) as worker:

        def change(source: int, *args: Any, **places: Any) -> int:
            if not changed:
                changed.append(done)
                worker.path(0).write_bytes(worker.content(0, done))
            return copy_bytes(source, *args, **places)

        monkeypatch.setattr(handover_files, "copy_bytes", change)
        assert await worker.send(0, 1) == ["UploadOutputs-0", "UploadOutputs-1"]
        assert worker.assets.got["0"] == worker.content(0, done)
        assert names(folder) == []


async def test_one_that_is_gone_or_too_large_or_unreadable_harms_no_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with working(folder) as worker:
        worker.write(0, 1, 2, 3)
        worker.path(1).unlink()
        worker.path(2).write_bytes(bytes((4 << 20) + 1))
        gone, large = (await asyncio.gather(*worker.begin(0, 1, 2, 3), return_exceptions=True))[1:3]
        assert isinstance(gone, FileNotFoundError)
        assert large is None
        assert {index: worker.assets.got[index] for index in "03"} == {"0": worker.content(0), "3": worker.content(3)}
        assert worker.assets.calls == ["handed"]
        # One that can be seen and not opened: a folder.
        worker.path(4).mkdir()
        worker.write(5, 6)
        done = await asyncio.gather(*worker.begin(4, 5, 6), return_exceptions=True)
        assert isinstance(done[0], IsADirectoryError)
        assert done[1:] == ["UploadOutputs-5", "UploadOutputs-6"]


async def test_an_empty_file_is_never_handed_over(folder: Path) -> None:
    async with working(folder) as worker:
        worker.write(0, 1)
        worker.path(2).touch()
        done = await asyncio.gather(*worker.begin(0, 1, 2))
        assert done == [f"UploadOutputs-{index}" for index in range(3)]


@pytest.mark.parametrize("what", ["folder is gone", "no room"])
async def test_where_no_file_can_be_written_bytes_go_as_messages(
    folder: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    async with working(folder) as worker:
        if what == "no room":
            monkeypatch.setattr(handover_files, "copy_bytes", _full)
        else:
            await asyncio.to_thread(folder.rmdir)
        assert await worker.send_right(0, 1) == ["UploadOutputs-0", "UploadOutputs-1"]


def _full(*_: Any, **__: Any) -> int:
    raise OSError(28, "No space left on device")


def test_a_file_that_the_service_has_cleared_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "output").write_bytes(b"picture")
    folder = tmp_path / "handover"
    folder.mkdir()
    files = HandoverFiles(folder)
    first = files.write([(tmp_path / "output", 7)])
    assert first is not None
    files.give_back(first)
    (folder / first.name).unlink()
    second = files.write([(tmp_path / "output", 7)] * 2)
    assert second is not None
    assert (folder / second.name).read_bytes() == b"picture" * 2
    assert second.name != first.name
    files.give_back(second)
    assert len(opened(folder)) == 1
    files.close()
    assert (names(folder), opened(folder)) == ([], [])


def test_when_no_call_is_under_way_no_file_has_bytes_of_anybody(tmp_path: Path) -> None:
    (tmp_path / "output").write_bytes(b"picture")
    folder = tmp_path / "handover"
    folder.mkdir()
    files = HandoverFiles(folder)
    for end in (files.give_back, files.discard):
        made = [file for file in (files.write([(tmp_path / "output", 7)]) for _ in range(2)) if file is not None]
        assert [(folder / file.name).read_bytes() for file in made] == [b"picture"] * 2
        files.give_back(made[0])
        # Another call is under way, and more will follow.
        assert (folder / made[0].name).read_bytes() == b"picture"
        end(made[1])
        assert (folder / made[0].name).read_bytes() == b""
    assert {path.read_bytes() for path in folder.iterdir()} == {b""}
    files.close()
    assert list(folder.iterdir()) == []


def test_few_files_are_kept(tmp_path: Path) -> None:
    (tmp_path / "handover").mkdir()
    files = HandoverFiles(tmp_path / "handover")
    made = [file for file in (files.take() for _ in range(MOST_KEPT + 3)) if file is not None]
    assert len({file.name for file in made}) == MOST_KEPT + 3
    for file in made:
        files.give_back(file)
    assert len(opened(tmp_path / "handover")) == len(names(tmp_path / "handover")) == MOST_KEPT
    files.close()
    assert opened(tmp_path / "handover") == []
