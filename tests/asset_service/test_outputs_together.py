"""Several small outputs in one message: each under its own lease, each with an answer of its own."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from google.rpc import status_pb2
from google.rpc.error_details_pb2 import RequestInfo

from asset_service.domain import Upload
from asset_service.output_batches import OutputBatches
from asset_service.shape_domain import Shape
from asset_service.storage.uploads import Uploads
from atelier.asset.v1 import upload_service_pb2 as pb
from service_kit.blobs import BlobInfo, NewBlob, nameless
from service_kit.blobs.small_blobs import SmallBlobs
from service_kit.capabilities import LeaseClaims
from service_kit.errors import AtelierError, ErrorReason, InvalidArgument, Unavailable
from service_kit.ids import new_id
from service_kit.interceptors import REQUEST_ID
from service_kit.rpc_errors import DETAILS_KEY, from_rpc_error
from tests.asset_service.harness import BOB, Harness
from tests.asset_service.pictures import encoded, png
from tests.asset_service.test_small_outputs import THUMB, file
from tests.blobs.test_chosen import files, open_files


def output(harness: Harness, lease: LeaseClaims, data: bytes, index: int = 0) -> pb.LeasedOutput:
    """Return an output as a message carries it."""
    request = pb.UploadOutputRequest(asset_index=index, files=[file(data)])
    return pb.LeasedOutput(lease_token=harness.capabilities.sign_lease(lease), output=request)


async def upload(harness: Harness, lease: LeaseClaims, *outputs: pb.LeasedOutput) -> list[pb.OutputAnswer]:
    """Upload outputs with a call that is made under one lease."""
    request = pb.UploadOutputsRequest(outputs=outputs)
    reply = await harness.uploads.UploadOutputs(request, metadata=harness.as_worker(lease))
    return list(reply.answers)


def reason(refused: status_pb2.Status) -> ErrorReason:
    """Return why an output was refused, as a worker reads it."""
    trailing = grpc.aio.Metadata((DETAILS_KEY, refused.SerializeToString()))
    error = grpc.aio.AioRpcError(grpc.StatusCode.UNKNOWN, grpc.aio.Metadata(), trailing)
    return from_rpc_error(error).reason


async def test_outputs_of_several_leases_are_staged_with_one_message(harness: Harness) -> None:
    anns, bobs = harness.lease(new_id()), harness.lease(new_id(), owner=BOB)
    sent = [output(harness, anns, png()), output(harness, anns, png(seed=1), 1), output(harness, bobs, png())]
    answers = await upload(harness, anns, *sent)
    claims = [harness.capabilities.verify_receipt(answer.stored.receipt) for answer in answers]
    assert [(one.job_id, one.asset_index) for one in claims] == [(anns.job_id, 0), (anns.job_id, 1), (bobs.job_id, 0)]
    receipts = {index: answers[index].stored.receipt for index in (0, 1)}
    assert sorted((await harness.settle(anns.job_id, receipts)).published) == [0, 1]
    # Once again, the other way round, under the other lease: the same.
    again = await upload(harness, bobs, sent[2])
    assert again == answers[2:]


async def test_each_is_told_what_is_wrong_with_it_and_harms_no_other(harness: Harness) -> None:
    lease, settled = harness.lease(new_id()), harness.lease(new_id())
    await harness.settle(settled.job_id, {})
    expired = harness.lease(new_id(), expires_at=harness.clock.now() - timedelta(seconds=1))
    forged = output(harness, harness.lease(new_id()), png())
    forged.lease_token = forged.lease_token[:-4] + "AAAA"
    wrong_digest = output(harness, lease, png(), 1)
    wrong_digest.output.files[0].sha256 = "0" * 64
    answers = await upload(
        harness,
        lease,
        output(harness, settled, png()),
        output(harness, expired, png()),
        forged,
        wrong_digest,
        output(harness, lease, png(), lease.max_outputs),
        output(harness, lease, b"no picture", 2),
        output(harness, lease, png()),
    )
    assert [reason(answer.refused) for answer in answers[:-1]] == [
        ErrorReason.ALREADY_SETTLED,
        ErrorReason.INVALID_LEASE,
        ErrorReason.INVALID_LEASE,
        ErrorReason.DIGEST_MISMATCH,
        ErrorReason.OUT_OF_RANGE,
        ErrorReason.UNSUPPORTED_MEDIA,
    ]
    assert answers[0].refused.code == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    assert harness.capabilities.verify_receipt(answers[-1].stored.receipt).job_id == lease.job_id
    assert len(await harness.blobs()) == 1


async def test_who_is_refused_is_told_by_which_request_id_the_log_knows_it(harness: Harness) -> None:
    lease = harness.lease(new_id())
    request = pb.UploadOutputsRequest(outputs=[output(harness, lease, b"no picture"), output(harness, lease, png())])
    metadata = (*harness.as_worker(lease), (REQUEST_ID, "request-7"))
    reply = await harness.uploads.UploadOutputs(request, metadata=metadata)
    found = [detail for detail in reply.answers[0].refused.details if detail.Is(RequestInfo.DESCRIPTOR)]
    info = RequestInfo()
    assert found[0].Unpack(info)
    assert (len(found), info.request_id) == (1, "request-7")


async def test_the_call_itself_needs_a_lease(harness: Harness) -> None:
    lease = harness.lease(new_id())
    request = pb.UploadOutputsRequest(outputs=[output(harness, lease, png())])
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await harness.uploads.UploadOutputs(request, metadata=(("atelier-lease-token", "nonsense"),))
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert await harness.blobs() == []


async def test_all_outputs_of_a_message_share_their_transactions_and_their_write(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, begun, staged, written = harness.service.store, list[int](), list[int](), list[int]()
    put, add, stage = store.put_many, Uploads.add_many, Uploads.stage_many

    async def added(uploads: Uploads, new: Sequence[Upload]) -> None:
        begun.append(len(new))
        await add(uploads, new)

    async def measured(uploads: Uploads, found: Sequence[Upload]) -> None:
        staged.append(len(found))
        await stage(uploads, found)

    async def noted(
        bucket: str, blobs: Sequence[NewBlob], *, chosen: asyncio.Future[Sequence[int]]
    ) -> Sequence[BlobInfo | Exception]:
        infos = await put(bucket, blobs, chosen=chosen)
        written.append(len(infos))
        return infos

    monkeypatch.setattr(Uploads, "add_many", added)
    monkeypatch.setattr(Uploads, "stage_many", measured)
    monkeypatch.setattr(store, "put_many", noted)
    leases = [harness.lease(new_id()) for _ in range(8)]
    sent = [output(harness, lease, png()) for lease in leases]
    answers = await upload(harness, leases[0], *sent)
    assert all(answer.HasField("stored") for answer in answers)
    assert (begun, written, staged) == ([8], [8], [8])
    # A repeat finds them, has their locks, and looks again.
    assert await upload(harness, leases[0], *sent) == answers
    assert (begun, written, staged) == ([8, 0, 0], [8], [8])


async def test_a_repeat_does_not_wait_for_what_its_bytes_are(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    lease, probe, goes_on = harness.lease(new_id()), harness.service.probe, asyncio.Event()
    measure = probe.measure_bytes

    async def busy(files: Sequence[bytes]) -> Sequence[Shape | AtelierError]:
        await goes_on.wait()
        return await measure(files)

    first = await upload(harness, lease, output(harness, lease, png()))
    monkeypatch.setattr(probe, "measure_bytes", busy)
    try:
        async with asyncio.timeout(30):
            assert await upload(harness, lease, output(harness, lease, png())) == first
    finally:
        goes_on.set()


async def test_equal_outputs_of_a_message_are_one(harness: Harness) -> None:
    lease = harness.lease(new_id())
    answers = await upload(harness, lease, *[output(harness, lease, png())] * 3, output(harness, lease, png(), 1))
    assert len({answer.stored.receipt for answer in answers}) == 2
    assert len(await harness.blobs()) == 2


async def test_an_output_that_kills_its_decoder_harms_no_other_of_its_message(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease, deadly = harness.lease(new_id()), png(seed=7)
    probe = harness.service.probe
    measure = probe.measure_bytes

    async def dies(files: Sequence[bytes]) -> Sequence[Shape | AtelierError]:
        if deadly in files:
            raise InvalidArgument("The file could not be decoded.", ErrorReason.UNSUPPORTED_MEDIA)
        return await measure(files)

    monkeypatch.setattr(probe, "measure_bytes", dies)
    sent = [output(harness, lease, png()), output(harness, lease, deadly, 1), output(harness, lease, png(seed=2), 2)]
    answers = await upload(harness, lease, *sent)
    assert [answer.HasField("stored") for answer in answers] == [True, False, True]
    assert reason(answers[1].refused) is ErrorReason.UNSUPPORTED_MEDIA
    assert len(await harness.blobs()) == 2


async def test_an_output_that_the_store_refuses_harms_no_other_of_its_message(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease, store = harness.lease(new_id()), harness.service.store
    put, refused = store.put_many, hashlib.sha256(png(seed=1)).hexdigest()

    async def partly(
        bucket: str, blobs: Sequence[NewBlob], *, chosen: asyncio.Future[Sequence[int]]
    ) -> Sequence[BlobInfo | Exception]:
        some = [blobs[place] for place in await chosen]
        written = iter(await put(bucket, [blob for blob in some if blob.sha256 != refused]))
        return [Unavailable("Not now.") if blob.sha256 == refused else next(written) for blob in some]

    sent = [output(harness, lease, png()), output(harness, lease, png(seed=1), 1)]
    with monkeypatch.context() as patched:
        patched.setattr(store, "put_many", partly)
        first = await upload(harness, lease, *sent)
    assert [answer.HasField("stored") for answer in first] == [True, False]
    assert first[1].refused.code == grpc.StatusCode.UNAVAILABLE.value[0]
    again = await upload(harness, lease, *sent)
    assert again[0] == first[0]
    assert again[1].HasField("stored")


async def test_no_more_files_share_the_time_of_one_than_of_single_outputs(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe, measured = harness.service.probe, list[int]()
    measure = probe.measure_bytes

    async def noted(files: Sequence[bytes]) -> Sequence[Shape | AtelierError]:
        measured.append(len(files))
        return await measure(files)

    monkeypatch.setattr(probe, "measure_bytes", noted)
    lease, thumb = harness.lease(new_id(), max_outputs=20), encoded("WEBP")
    sent = [output(harness, lease, png(seed=index), index) for index in range(20)]
    for one in sent:
        one.output.files.append(file(thumb, THUMB))
    assert all(answer.HasField("stored") for answer in await upload(harness, lease, *sent))
    assert measured == [32, 8]


@pytest.fixture
async def ahead(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Have rows wait for bytes, which usually come at any time before their names; tell that they are there."""
    written, loop, write, begin = asyncio.Event(), asyncio.get_running_loop(), SmallBlobs.write, OutputBatches.begin

    def noted(writing: SmallBlobs) -> None:
        write(writing)
        loop.call_soon_threadsafe(written.set)

    async def late(
        batches: OutputBatches, outputs: Sequence[Sequence[Upload]]
    ) -> Sequence[Sequence[Upload] | AtelierError]:
        async with asyncio.timeout(10):
            await written.wait()
        return await begin(batches, outputs)

    monkeypatch.setattr(SmallBlobs, "write", noted)
    monkeypatch.setattr(OutputBatches, "begin", late)
    return written


def times(root: Path, data: bytes) -> int:
    """Return how often bytes are on the disk below a folder, in files of however many names."""
    one_name_each = {Path(path).stat().st_ino: Path(path) for path in files(root)}
    return sum(path.read_bytes().count(data) for path in one_name_each.values())


async def test_nothing_has_a_name_before_its_row_is_committed(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, ahead: asyncio.Event
) -> None:
    blobs, add, give = harness.data_dir / "blobs", Uploads.add_many, nameless.give_name
    seen, open_then, rows = list[list[str]](), list[int](), list[int]()

    async def added(uploads: Uploads, new: Sequence[Upload]) -> None:
        await add(uploads, new)
        seen.append(files(blobs))
        open_then.append(len(open_files(blobs)))

    def named(descriptor: int, folder: int, name: str) -> None:
        upload_id = name.removesuffix(".blob").rpartition(".")[2]
        with closing(sqlite3.connect(harness.data_dir / "asset" / "asset.sqlite3")) as database:
            [[count]] = database.execute("SELECT count(*) FROM uploads WHERE upload_id = ?", [upload_id])
        rows.append(count)
        give(descriptor, folder, name)

    monkeypatch.setattr(Uploads, "add_many", added)
    monkeypatch.setattr(nameless, "give_name", named)
    lease = harness.lease(new_id())
    answers = await upload(harness, lease, *(output(harness, lease, png(seed=index), index) for index in range(3)))
    assert all(answer.HasField("stored") for answer in answers)
    assert (seen, open_then) == ([[]], [1])
    assert rows == [1, 1, 1]
    assert len(await harness.blobs()) == 3
    assert open_files(blobs) == []


async def test_of_what_is_refused_no_bytes_stay_in_the_file_of_the_others(
    harness: Harness, ahead: asyncio.Event
) -> None:
    lease, settled = harness.lease(new_id(), max_outputs=5), harness.lease(new_id())
    blobs = harness.data_dir / "blobs"
    await harness.settle(settled.job_id, {})
    pictures = [png(seed=seed) for seed in range(5)]
    damaged = png(seed=5)[:-20]
    wrong_digest = output(harness, lease, pictures[1], 1)
    wrong_digest.output.files[0].sha256 = "0" * 64
    answers = await upload(
        harness,
        lease,
        output(harness, settled, pictures[0]),
        wrong_digest,
        *[output(harness, lease, pictures[2], 2)] * 2,
        output(harness, lease, pictures[3], 3),
        output(harness, lease, damaged, 4),
    )
    assert ahead.is_set()
    refused = [reason(answers[place].refused) for place in (0, 1, 5)]
    assert refused == [ErrorReason.ALREADY_SETTLED, ErrorReason.DIGEST_MISMATCH, ErrorReason.MEDIA_DAMAGED]
    assert len({answer.stored.receipt for answer in answers[2:5]}) == 2
    # An equal one is there once.
    assert [times(blobs, data) for data in (*pictures, damaged)] == [0, 0, 1, 1, 0, 0]
    again = harness.lease(new_id())
    await upload(harness, again, output(harness, settled, pictures[0]), output(harness, again, pictures[4]))
    assert [times(blobs, data) for data in pictures] == [0, 0, 1, 1, 1]
    assert open_files(blobs) == []


@pytest.mark.parametrize("error", [Unavailable("The database is away."), MemoryError()], ids=["refused", "fault"])
async def test_when_no_rows_can_be_begun_nothing_of_the_bytes_stays(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, ahead: asyncio.Event, error: Exception
) -> None:
    async def broken(uploads: Uploads, new: Sequence[Upload]) -> None:
        raise error

    lease, blobs = harness.lease(new_id()), harness.data_dir / "blobs"
    sent = [output(harness, lease, png(seed=index), index) for index in range(2)]
    with monkeypatch.context() as patched:
        patched.setattr(Uploads, "add_many", broken)
        if isinstance(error, Unavailable):
            assert [answer.HasField("refused") for answer in await upload(harness, lease, *sent)] == [True, True]
        else:
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await upload(harness, lease, *sent)
            assert failed.value.code() is grpc.StatusCode.INTERNAL
    assert ahead.is_set()
    assert files(blobs) == open_files(blobs) == []
    # Nor are their locks held.
    assert all(answer.HasField("stored") for answer in await upload(harness, lease, *sent))
    assert len(await harness.blobs()) == 2
