"""Small references that are wanted at the same time come in one message; whatever does not is read alone."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from atelier.asset.v1 import upload_service_pb2 as pb
from atelier.asset.v1 import upload_service_pb2_grpc
from atelier.type.v1 import media_pb2
from atelier_worker.patience import Patience, TransferFailed
from atelier_worker.together import CALLS_AT_ONCE
from atelier_worker.uploads import Transfers
from atelier_worker.whole_references import WHOLE_BYTES, WholeReferences
from tests.atelier_worker.fake_router import FakeAssets


class Together(FakeAssets):
    """Answers for what it has; each call waits until it may end."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.entered = asyncio.Semaphore(0)
        self.together: list[list[tuple[str, str]]] = []
        self.answered = 100
        self.fails_late: grpc.StatusCode | None = None
        self.references = {name: name.encode() for name in "abcdef"}
        self.folder: Path | None = None
        self.names: list[str] = []
        self.cut = 0

    async def ReadReferences(self, request: pb.ReadReferencesRequest, context: Any) -> Any:
        self.together.append([(one.lease_token, one.asset_id) for one in request.references])
        await self._enter("ReadReferences", context)
        self.entered.release()
        await self.gate.wait()
        if self.fails_late is not None:
            await context.abort(self.fails_late, "ReadReferences fails late")
        found = [self.references.get(one.asset_id) for one in request.references]
        answers = [pb.WholeReference() if data is None else pb.WholeReference(data=data) for data in found]
        self.names.append(request.handover_name)
        if self.folder is not None:
            content = b"".join(data for data in found if data is not None)
            await asyncio.to_thread(
                (self.folder / request.handover_name).write_bytes, content[: len(content) - self.cut]
            )
            answers = [pb.WholeReference(handed_over_bytes=None if data is None else len(data)) for data in found]
        return pb.ReadReferencesResponse(references=answers[: self.answered])


@asynccontextmanager
async def serving(assets: FakeAssets) -> AsyncIterator[grpc.aio.Channel]:
    """Serve, and give a channel there."""
    server = grpc.aio.server()
    upload_service_pb2_grpc.add_UploadServiceServicer_to_server(assets, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel, asyncio.timeout(20):
            yield channel
    finally:
        await server.stop(None)


class Reader:
    """Reads references as a worker does, each under a lease of its own."""

    def __init__(self, channel: grpc.aio.Channel, folder: Path, handover: Path | None = None) -> None:
        self._channel = channel
        self._folder = folder
        self.whole = WholeReferences(channel, handover=handover)

    def path(self, name: str) -> Path:
        """Return where a reference is written."""
        return self._folder / name

    async def read(self, name: str, data: bytes | None = None) -> bytes:
        """Read a reference that is to have certain bytes: its name's, if nothing else is said."""
        wanted = name.encode() if data is None else data
        media = media_pb2.Media(size_bytes=len(wanted), sha256=hashlib.sha256(wanted).hexdigest())
        patience = Patience(timedelta(seconds=1), 0.01)
        transfers = Transfers(self._channel, f"lease of {name}", patience, whole_references=self.whole)
        await transfers.read_reference(name, media, self.path(name))
        return await asyncio.to_thread(self.path(name).read_bytes)

    async def busy(self, assets: Together) -> list[asyncio.Task[bytes]]:
        """Have as many calls under way as may be."""
        begun = []
        for number in range(CALLS_AT_ONCE):
            begun.append(asyncio.create_task(self.read("ab"[number])))
            await assets.entered.acquire()
        return begun


async def test_what_is_wanted_while_calls_are_under_way_comes_together(tmp_path: Path) -> None:
    assets = Together()
    async with serving(assets) as channel:
        reader = Reader(channel, tmp_path)
        first = await reader.busy(assets)
        rest = [asyncio.create_task(reader.read(name)) for name in "cde"]
        await asyncio.sleep(0)
        assets.gate.set()
        assert await asyncio.gather(*first, *rest) == [b"a", b"b", b"c", b"d", b"e"]
    assert assets.together[-1] == [(f"lease of {name}", name) for name in "cde"]
    assert "ReadReference" not in assets.calls


async def test_no_more_is_asked_for_than_an_answer_may_have(tmp_path: Path) -> None:
    assets = Together()
    assets.references |= {name: name.encode() * WHOLE_BYTES for name in "cdef"}
    async with serving(assets) as channel:
        reader = Reader(channel, tmp_path)
        first = await reader.busy(assets)
        rest = [asyncio.create_task(reader.read(name, name.encode() * WHOLE_BYTES)) for name in "cdef"]
        await asyncio.sleep(0)
        assets.gate.set()
        await asyncio.gather(*first, *rest)
    assert [[name for _, name in wanted] for wanted in assets.together[-2:]] == [["c", "d", "e"], ["f"]]
    assert "ReadReference" not in assets.calls


async def test_what_is_not_answered_is_read_alone_and_told_what_is_wrong(tmp_path: Path) -> None:
    assets = Together()
    assets.gate.set()
    async with serving(assets) as channel:
        reader = Reader(channel, tmp_path)
        with pytest.raises(TransferFailed, match="no such object"):
            await reader.read("none")
        assert assets.calls == ["ReadReferences", "ReadReference"]
        with pytest.raises(TransferFailed, match="not those it had"):
            await reader.read("a", b"other")


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED])
async def test_after_a_call_that_fails_each_is_read_alone(tmp_path: Path, code: grpc.StatusCode) -> None:
    assets = Together()
    assets.gate.set()
    async with serving(assets) as channel:
        reader = Reader(channel, tmp_path)
        assets.failures["ReadReferences"].append(code)
        assert await reader.read("a") == b"a"
        assert await reader.read("b") == b"b"
    assert assets.calls == ["ReadReferences", "ReadReference", "ReadReferences"]


async def test_a_service_that_answers_for_fewer_has_answered_for_none(tmp_path: Path) -> None:
    assets = Together()
    assets.answered = 0
    assets.gate.set()
    async with serving(assets) as channel:
        assert await Reader(channel, tmp_path).read("a") == b"a"
    assert assets.calls == ["ReadReferences", "ReadReference"]


async def test_an_earlier_release_is_asked_once(tmp_path: Path) -> None:
    assets = Together()
    assets.failures["ReadReferences"].append(grpc.StatusCode.UNIMPLEMENTED)
    async with serving(assets) as channel:
        reader = Reader(channel, tmp_path)
        assert await reader.read("a") == b"a"
        assert await reader.read("b") == b"b"
    assert assets.calls == ["ReadReferences", "ReadReference", "ReadReference"]


async def test_an_earlier_release_is_not_asked_again_when_a_call_that_was_under_way_fails(tmp_path: Path) -> None:
    assets = Together()
    assets.fails_late = grpc.StatusCode.UNAVAILABLE
    async with serving(assets) as channel:
        reader = Reader(channel, tmp_path)
        under_way = asyncio.create_task(reader.read("a"))
        await assets.entered.acquire()
        assets.failures["ReadReferences"].append(grpc.StatusCode.UNIMPLEMENTED)
        assert await reader.read("b") == b"b"
        assets.gate.set()
        assert await under_way == b"a"
        assert await reader.read("c") == b"c"
    assert assets.calls == ["ReadReferences"] * 2 + ["ReadReference"] * 3


async def test_what_is_large_is_read_alone_from_the_start(tmp_path: Path) -> None:
    assets = Together()
    assets.references["large"] = data = bytes(WHOLE_BYTES + 1)
    async with serving(assets) as channel:
        with pytest.raises(TransferFailed, match="not those it had"):
            # Another one is asked for, so that not all of it has to come in pieces of 4 bytes.
            await Reader(channel, tmp_path).read("a", data)
    assert assets.calls == ["ReadReference"]


async def test_who_leaves_gets_no_file(tmp_path: Path) -> None:
    assets = Together()
    async with serving(assets) as channel:
        reader = Reader(channel, tmp_path)
        first, gate = await reader.busy(assets), assets.gate
        rest = [asyncio.create_task(reader.read(name)) for name in "cd"]
        await asyncio.sleep(0)
        assets.gate = asyncio.Event()
        gate.set()
        await asyncio.gather(*first)
        await assets.entered.acquire()
        rest[0].cancel()
        await asyncio.wait([rest[0]])
        assets.gate.set()
        assert await rest[1] == b"d"
    assert not reader.path("c").exists()


async def test_a_file_that_cannot_be_written_costs_no_other(tmp_path: Path) -> None:
    assets = Together()
    async with serving(assets) as channel:
        reader = Reader(channel, tmp_path)
        first = await reader.busy(assets)
        reader.path("c").mkdir()
        rest = [asyncio.create_task(reader.read(name)) for name in "cd"]
        await asyncio.sleep(0)
        assets.gate.set()
        done = await asyncio.gather(*first, *rest, return_exceptions=True)
    assert isinstance(done[2], TransferFailed)
    assert done[3] == b"d"


async def test_at_the_end_nobody_waits(tmp_path: Path) -> None:
    assets = Together()
    async with serving(assets) as channel:
        reader = Reader(channel, tmp_path)
        first = await reader.busy(assets)
        rest = [asyncio.create_task(reader.read(name)) for name in "cd"]
        await asyncio.sleep(0)
        await reader.whole.close()
        done = await asyncio.gather(*first, *rest, return_exceptions=True)
    assert {type(one) for one in done} == {asyncio.CancelledError}


def handover_of(tmp_path: Path) -> Path:
    """Make a folder such as a worker shares with a service on the same machine."""
    folder = tmp_path / "handover"
    folder.mkdir(mode=0o700)
    return folder


async def test_bytes_that_are_handed_over_are_read_there_and_the_file_is_used_again(tmp_path: Path) -> None:
    assets = Together()
    assets.folder = folder = handover_of(tmp_path)
    assets.references |= {"b": b"much longer than the others"}
    async with serving(assets) as channel:
        reader = Reader(channel, tmp_path, folder)
        first = await reader.busy(assets)
        rest = [asyncio.create_task(reader.read(name)) for name in "cd"]
        missing = asyncio.create_task(reader.read("none"))
        rest.append(asyncio.create_task(reader.read("e")))
        await asyncio.sleep(0)
        assets.gate.set()
        # The first of them has the bytes of its name, the second has others.
        assert await asyncio.gather(first[0], *rest) == [b"a", b"c", b"d", b"e"]
        for wrong, why in ((first[1], "not those it had"), (missing, "no such object")):
            with pytest.raises(TransferFailed, match=why):
                await wrong
        assert assets.names[2] in assets.names[:2]
        assert sorted(path.name for path in folder.iterdir()) == sorted(set(assets.names))
        await reader.whole.close()
    assert list(folder.iterdir()) == []


async def test_a_service_that_does_not_see_the_folder_answers_with_the_bytes(tmp_path: Path) -> None:
    assets = Together()
    assets.gate.set()
    async with serving(assets) as channel:
        for folder in (handover_of(tmp_path), tmp_path / "none"):
            reader = Reader(channel, tmp_path, folder)
            assert await reader.read("a") == b"a"
            await reader.whole.close()
    # Where no file can be made none is named.
    assert [len(name) for name in assets.names] == [32, 0]


async def test_less_than_was_said_is_read_alone(tmp_path: Path) -> None:
    assets = Together()
    assets.folder, assets.cut = handover_of(tmp_path), 1
    assets.gate.set()
    async with serving(assets) as channel:
        reader = Reader(channel, tmp_path, assets.folder)
        assert await reader.read("a") == b"a"
        await reader.whole.close()
    assert assets.calls == ["ReadReferences", "ReadReference"]


async def test_a_file_into_which_a_service_may_still_write_is_not_used_again(tmp_path: Path) -> None:
    assets = Together()
    assets.folder = folder = handover_of(tmp_path)
    async with serving(assets) as channel:
        reader = Reader(channel, tmp_path, folder)
        first = await reader.busy(assets)
        names = {path.name for path in folder.iterdir()}
        for one in first:
            one.cancel()
        await asyncio.wait(first)
        # Each call ends as soon as nobody waits for it.
        await reader.whole.close()
        assert list(folder.iterdir()) == []
        assets.gate.set()
        assert await reader.read("c") == b"c"
        assert len(names) == CALLS_AT_ONCE
        assert assets.names[-1] not in names
        await reader.whole.close()
