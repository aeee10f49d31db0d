"""Several small outputs whose bytes are in a file of a worker on this machine, and not in the message."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from asset_service.handover import AT_ONCE, Handover
from asset_service.small_outputs import MAX_BYTES
from atelier.asset.v1 import upload_service_pb2 as pb
from atelier.type.v1 import media_pb2
from atelier_worker.dial import dial
from atelier_worker.patience import Patience
from atelier_worker.uploads import Transfers
from atelier_worker.whole_outputs import WholeOutputs
from service_kit.capabilities import LeaseClaims
from service_kit.errors import ErrorReason, FailedPrecondition, InvalidArgument
from service_kit.ids import new_id
from tests.asset_service.handing_over import SECRET, names, open_below
from tests.asset_service.harness import BOB, Harness, refusal
from tests.asset_service.pictures import encoded, png
from tests.asset_service.test_outputs_together import reason
from tests.asset_service.test_small_outputs import THUMB, file


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def handed(data: bytes, **changes: Any) -> pb.OutputFile:
    """Return a file of a message whose bytes are beside it."""
    return pb.OutputFile(**{"handed_over_bytes": len(data)} | changes)


def leased(harness: Harness, lease: LeaseClaims, *files: pb.OutputFile, index: int = 0) -> pb.LeasedOutput:
    request = pb.UploadOutputRequest(asset_index=index, files=files)
    return pb.LeasedOutput(lease_token=harness.capabilities.sign_lease(lease), output=request)


def place(harness: Harness, content: bytes) -> Path:
    """Write a file where workers do."""
    path = harness.service.settings.handover_dir / secrets.token_hex(16)
    path.write_bytes(content)
    return path


async def upload(
    harness: Harness, lease: LeaseClaims, name: str, *outputs: pb.LeasedOutput
) -> Sequence[pb.OutputAnswer]:
    request = pb.UploadOutputsRequest(outputs=outputs, handover_name=name)
    return (await harness.uploads.UploadOutputs(request, metadata=harness.as_worker(lease))).answers


async def test_bytes_that_lie_one_behind_the_other_become_the_outputs(harness: Harness) -> None:
    ann, bob = harness.lease(new_id()), harness.lease(new_id(), owner=BOB)
    pictures, thumb, in_message = [png(seed=seed) for seed in range(2)], encoded("WEBP"), png(seed=7)
    # Whatever an earlier call has left lies behind them.
    path = place(harness, thumb + pictures[0] + pictures[1] + SECRET)
    answers = await upload(
        harness,
        ann,
        path.name,
        leased(harness, ann, handed(thumb, rendition=THUMB), handed(pictures[0])),
        leased(harness, ann, file(in_message), index=1),
        leased(harness, bob, handed(pictures[1], sha256=digest(pictures[1]))),
    )
    assert [one.stored.media.sha256 for one in answers] == list(map(digest, [pictures[0], in_message, pictures[1]]))
    receipts = {index: answers[index].stored.receipt for index in (0, 1)}
    assert sorted((await harness.settle(ann.job_id, receipts)).published) == [0, 1]
    everything = [*pictures, thumb, in_message]
    assert sorted(blob.sha256 for blob in await harness.blobs()) == sorted(map(digest, everything))
    assert names(path.parent) == [path.name], "it is the worker's"
    # A repeat in the message is the same output.
    again = await upload(harness, bob, "", leased(harness, bob, file(pictures[1])))
    assert again[0] == answers[2]


async def test_one_that_is_refused_keeps_its_bytes_from_the_next(harness: Harness) -> None:
    lease, settled = harness.lease(new_id()), harness.lease(new_id())
    await harness.settle(settled.job_id, {})
    expired = harness.lease(new_id(), expires_at=harness.clock.now() - timedelta(seconds=1))
    data = [png(seed=seed) for seed in range(6)] + [b"no picture"]
    sent = [
        leased(harness, expired, handed(data[0]), handed(data[0], rendition=THUMB)),
        leased(harness, lease, handed(data[1])),
        # No such rendition, and a file behind it.
        leased(harness, lease, handed(data[2], rendition=99), handed(data[2]), index=1),
        leased(harness, lease, handed(data[3], sha256="0" * 64), index=2),
        leased(harness, settled, handed(data[4])),
        leased(harness, lease, handed(data[6]), index=2),
        leased(harness, lease, handed(data[5]), index=3),
    ]
    content = [data[0] * 2, data[1], data[2] * 2, data[3], data[4], data[6], data[5]]
    answers = await upload(harness, lease, place(harness, b"".join(content)).name, *sent)
    assert [reason(answers[place].refused) for place in (0, 2, 3, 4, 5)] == [
        ErrorReason.INVALID_LEASE,
        ErrorReason.INVALID_VALUE,
        ErrorReason.DIGEST_MISMATCH,
        ErrorReason.ALREADY_SETTLED,
        ErrorReason.UNSUPPORTED_MEDIA,
    ]
    assert [answers[place].stored.media.sha256 for place in (1, 6)] == [digest(data[1]), digest(data[5])]
    assert {blob.sha256 for blob in await harness.blobs()} == {digest(data[1]), digest(data[5])}


def _up(path: Path, secret: Path) -> str:
    return f"../{secret.name}"


def _absolute(path: Path, secret: Path) -> str:
    return "/etc/hostname"


def _upper(path: Path, secret: Path) -> str:
    path.rename(path.with_name("A" * 32))
    return "A" * 32


def _missing(path: Path, secret: Path) -> str:
    path.unlink()
    return path.name


def _symlink(path: Path, secret: Path) -> str:
    path.unlink()
    path.symlink_to(secret)
    return path.name


def _fifo(path: Path, secret: Path) -> str:
    path.unlink()
    os.mkfifo(path)
    return path.name


def _folder(path: Path, secret: Path) -> str:
    path.unlink()
    path.mkdir()
    return path.name


def _short(path: Path, secret: Path) -> str:
    os.truncate(path, path.stat().st_size - 1)
    return path.name


def _for_all(path: Path, secret: Path) -> str:
    path.parent.chmod(0o755)
    return path.name


@pytest.mark.parametrize("lead", [_up, _absolute, _upper, _missing, _symlink, _fifo, _folder, _short, _for_all])
async def test_what_is_no_file_of_the_worker_is_not_read(harness: Harness, lead: Callable[[Path, Path], str]) -> None:
    lease, data = harness.lease(new_id()), png()
    path = place(harness, data)
    secret = path.parent.parent / "secret"
    secret.write_bytes(data)
    name = lead(path, secret)
    refused = await refusal(upload(harness, lease, name, leased(harness, lease, handed(data))))
    assert isinstance(refused, FailedPrecondition)
    assert refused.reason is ErrorReason.INCOMPLETE_UPLOAD
    assert f"has {len(data)} bytes" in str(refused)
    assert await harness.blobs() == []
    assert open_below(path.parent) == []


async def test_a_file_of_somebody_else_is_not_read(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    lease, data = harness.lease(new_id()), png()
    path, owner = place(harness, data), os.geteuid()

    def stat(file: int) -> Any:
        found = os.stat(file)
        return os.stat_result([*found[:4], owner + 1, *found[5:]])

    monkeypatch.setattr(os, "fstat", stat)
    refused = await refusal(upload(harness, lease, path.name, leased(harness, lease, handed(data))))
    monkeypatch.undo()
    assert refused.reason is ErrorReason.INCOMPLETE_UPLOAD
    assert open_below(path.parent) == []


async def test_a_file_that_shrinks_while_it_is_read_is_not_taken(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease, data = harness.lease(new_id()), png()
    path, read = place(harness, data * 2), os.read

    def shrinking(file: int, length: int) -> bytes:
        os.truncate(path, 2 * len(data) - 7)
        return read(file, length)

    monkeypatch.setattr(os, "read", shrinking)
    sent = [leased(harness, lease, handed(data), index=index) for index in range(2)]
    refused = await refusal(upload(harness, lease, path.name, *sent))
    monkeypatch.undo()
    assert refused.reason is ErrorReason.INCOMPLETE_UPLOAD
    assert await harness.blobs() == []


async def test_what_is_written_after_it_was_read_changes_nothing(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease, data = harness.lease(new_id()), png()
    path, read = place(harness, data), os.read

    def then_changed(file: int, length: int) -> bytes:
        found = read(file, length)
        path.write_bytes(SECRET)
        return found

    monkeypatch.setattr(os, "read", then_changed)
    [answer] = await upload(harness, lease, path.name, leased(harness, lease, handed(data)))
    monkeypatch.undo()
    assert answer.stored.media.sha256 == digest(data)
    [blob] = await harness.blobs()
    stored = await harness.service.store.read_whole([("workspace-temp", blob.key, blob.generation)], **_WHOLE)
    assert stored == [data]


_WHOLE = {"most_bytes": 1 << 20, "most_bytes_together": 1 << 20}


@pytest.mark.parametrize(
    ("files", "field"),
    [
        ([pb.OutputFile(handed_over_bytes=-1)], "handed_over_bytes"),
        ([pb.OutputFile(handed_over_bytes=(4 << 20) + 1)], "handed_over_bytes"),
        ([pb.OutputFile(handed_over_bytes=4 << 20)] * 3, "handed_over_bytes"),
        ([file(b"1", handed_over_bytes=1)], "handed_over_bytes"),
        ([pb.OutputFile()], "data"),
        ([pb.OutputFile(handed_over_bytes=1), pb.OutputFile()], "data"),
        ([pb.OutputFile(data=b"1")], "sha256"),
    ],
)
async def test_sizes_that_cannot_be_are_refused_before_anything_is_read(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, files: list[pb.OutputFile], field: str
) -> None:
    async def read(*_: Any) -> Any:
        raise AssertionError("it was read")

    monkeypatch.setattr(harness.service.handover, "read", read)
    lease = harness.lease(new_id())
    outputs = [leased(harness, lease, *files, index=index) for index in range(4)]
    refused = await refusal(upload(harness, lease, "0" * 32, *outputs))
    assert isinstance(refused, InvalidArgument)
    assert field in str(refused)


@pytest.mark.parametrize("name", ["0" * 33, "0\0"])
async def test_a_name_that_cannot_be_is_refused(harness: Harness, name: str) -> None:
    lease = harness.lease(new_id())
    refused = await refusal(upload(harness, lease, name, leased(harness, lease, handed(png()))))
    assert isinstance(refused, InvalidArgument)
    assert "handover_name" in str(refused)


async def test_sizes_without_a_name_and_an_output_alone_need_their_bytes(harness: Harness) -> None:
    lease, data = harness.lease(new_id()), png()
    without_name = upload(harness, lease, "", leased(harness, lease, handed(data)))
    alone = harness.uploads.UploadOutput(
        pb.UploadOutputRequest(asset_index=0, files=[handed(data)]), metadata=harness.as_worker(lease)
    )
    for call in (without_name, alone):
        refused = await refusal(call)
        assert isinstance(refused, InvalidArgument)
        assert (refused.reason, "data" in str(refused)) == (ErrorReason.MISSING_FIELD, True)


async def test_only_a_few_are_read_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a message asks for costs its sender nothing, so many of them must not fill the memory."""
    handover, begun, go_on = Handover(tmp_path), list[Any](), asyncio.Event()

    async def in_a_thread(*what: Any) -> list[tuple[bytes, str]]:
        begun.append(what)
        await go_on.wait()
        return [(b"", "")]

    monkeypatch.setattr(asyncio, "to_thread", in_a_thread)
    calls = [asyncio.ensure_future(handover.read("0" * 32, [MAX_BYTES])) for _ in range(3 * AT_ONCE)]
    # All of them begin, and wait: for their turn, or for what they read.
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(begun) == AT_ONCE
    # A thread reads on though its call was left, and so keeps its place.
    left, rest = calls[:AT_ONCE], calls[AT_ONCE:]
    for call in left:
        call.cancel()
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(begun) == AT_ONCE
    go_on.set()
    await asyncio.gather(*rest)
    assert [call.cancelled() for call in left] == [True] * AT_ONCE
    assert len(begun) == len(calls)


async def test_the_outputs_of_a_worker_come_with_none_of_their_bytes_in_a_message(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[pb.UploadOutputsRequest] = []
    folder, channel = harness.service.settings.handover_dir, dial(harness.service.server.target)
    outputs = WholeOutputs(channel, handover=folder)
    call = outputs._stub.UploadOutputs

    def noted(request: pb.UploadOutputsRequest, **rest: Any) -> Any:
        sent.append(request)
        return call(request, **rest)

    monkeypatch.setattr(outputs._stub, "UploadOutputs", noted)
    leases = [harness.lease(new_id()) for _ in range(8)]
    pictures = [png(200, 150, seed=seed) for seed in range(len(leases))]
    files = [tmp_path / str(number) for number in range(len(leases))]
    for path, picture in zip(files, pictures, strict=True):
        path.write_bytes(picture)
    patience = Patience(timedelta(seconds=10), 0.01)

    async def one(lease: LeaseClaims, path: Path) -> str:
        token = harness.capabilities.sign_lease(lease)
        transfers = Transfers(channel, token, patience, handover=folder, whole_outputs=outputs)
        return await transfers.upload_output(0, path, {})

    try:
        # The second time into the file that the first has left.
        for _ in range(2):
            receipts = await asyncio.gather(*map(one, leases, files))
            [name] = names(folder)
        assert [harness.capabilities.verify_receipt(receipt).sha256 for receipt in receipts] == list(
            map(digest, pictures)
        )
    finally:
        await outputs.close()
        await channel.close()
    assert [request.handover_name for request in sent] == [name, name]
    assert not any(each.data for request in sent for one_of in request.outputs for each in one_of.output.files)
    assert {blob.sha256 for blob in await harness.blobs()} == set(map(digest, pictures))
    assert names(folder) == []


async def test_one_that_no_message_may_have_neither_harms_the_others_nor_ends_the_way(
    harness: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole message is refused for it, and again when it comes alone; the others and the next feel nothing."""
    folder, channel = harness.service.settings.handover_dir, dial(harness.service.server.target)
    sent: list[pb.UploadOutputsRequest] = []
    outputs = WholeOutputs(channel, handover=folder)
    call = outputs._stub.UploadOutputs

    def noted(request: pb.UploadOutputsRequest, **rest: Any) -> Any:
        sent.append(request)
        return call(request, **rest)

    monkeypatch.setattr(outputs._stub, "UploadOutputs", noted)
    lease, picture = harness.lease(new_id(), max_bytes=1 << 20), png(400, 300)
    assert len(picture) > 256 << 10, "each is worth a file of its own"
    path = tmp_path / "output"
    path.write_bytes(picture)
    token = harness.capabilities.sign_lease(lease)

    def send(index: int) -> Awaitable[str | None]:
        return outputs.send(token, index, {media_pb2.RENDITION_KIND_UNSPECIFIED: path})

    try:
        refused, *receipts = await asyncio.gather(*map(send, [65, 0, 1]), return_exceptions=True)
        assert isinstance(refused, grpc.aio.AioRpcError)
        assert "asset_index must be 0..64, got 65" in str(refused.details())
        assert all(isinstance(receipt, str) for receipt in receipts)
        with pytest.raises(grpc.aio.AioRpcError, match="got 65"):
            await send(65)
        assert await send(2)
    finally:
        await outputs.close()
        await channel.close()
    assert all(request.handover_name for request in sent)
    assert [len(request.outputs) for request in sent] == [3, 1, 1, 1, 1, 1]
