"""How a job ends in the workspace: once, whatever is repeated."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from unittest.mock import AsyncMock

import pytest

from asset_service.receipts import Receipts
from atelier.asset.v1 import asset_control_service_pb2, asset_pb2, upload_service_pb2
from atelier.type.v1 import media_pb2
from service_kit.errors import InvalidArgument, NotFound, PermissionDenied, Unavailable
from service_kit.ids import asset_id, new_id
from tests.asset_service.harness import ANN, BOB, Harness, refusal, wire_owner
from tests.asset_service.pictures import encoded, png


async def test_a_repeat_is_answered_as_the_first_and_publishes_nothing_more(harness: Harness) -> None:
    job_id = new_id()
    lease = harness.lease(job_id)
    first, second = await harness.deliver(lease, png()), await harness.deliver(lease, png(seed=1), 1)
    once = await harness.settle(job_id, {0: first.receipt})
    again = await harness.settle(job_id, {0: first.receipt, 1: second.receipt})
    assert once == again
    assert list(once.published) == [0]
    assert [asset.asset_index for asset in await harness.listed()] == [0]


async def test_a_repeat_is_answered_without_a_look_at_the_bytes(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, new = new_id(), new_id()
    receipts = [(await harness.deliver(harness.lease(job_id), png())).receipt for job_id in (told, new)]
    once = await harness.settle(told, {0: receipts[0]})
    monkeypatch.setattr(harness.service.store, "stat", AsyncMock(side_effect=Unavailable("the bucket is away")))
    assert isinstance(await refusal(harness.settle(new, {0: receipts[1]})), Unavailable)
    assert await harness.settle(told, {0: receipts[0]}) == once


async def test_settlements_at_the_same_time_publish_once(harness: Harness) -> None:
    job_id = new_id()
    finished = await harness.deliver(harness.lease(job_id), png())
    replies = await asyncio.gather(*(harness.settle(job_id, {0: finished.receipt}) for _ in range(5)))
    assert all(list(reply.published) == [0] and not reply.lost for reply in replies)
    assert len(await harness.listed()) == 1


async def test_two_attempts_leave_one_asset_for_each_index(harness: Harness) -> None:
    job_id = new_id()
    loser = await harness.deliver(harness.lease(job_id, fence=1), png(seed=1))
    winner = await harness.deliver(harness.lease(job_id, fence=2), png(seed=2))
    request = asset_control_service_pb2.SettleRequest(job_id=job_id, owner=wire_owner(ANN))
    request.winners.add(asset_index=0, receipt=winner.receipt)
    request.winners.add(asset_index=0, receipt=loser.receipt)
    reply = await harness.control.Settle(request, metadata=harness.as_router)
    assert (list(reply.published), list(reply.lost)) == ([0], [])
    [asset] = await harness.listed()
    assert asset.media.sha256 == winner.media.sha256
    await harness.service.expiry.look()
    [blob] = await harness.blobs()
    assert blob.sha256 == winner.media.sha256


async def test_what_lost_is_deleted_with_its_renditions_and_spooled_bytes(harness: Harness) -> None:
    job_id = new_id()
    lease = harness.lease(job_id)
    output = await harness.send(lease, png())
    thumb = await harness.send(lease, encoded("WEBP"), rendition=media_pb2.RENDITION_KIND_THUMB_256)
    await harness.finish(lease, output, [thumb])
    await harness.send(lease, png(seed=5), 1)
    assert len(await harness.blobs()) == 2
    assert len(await harness.service.spool.names()) == 1

    await harness.settle(job_id, {})
    await harness.service.expiry.look()

    assert await harness.blobs() == []
    assert await harness.service.spool.names() == []
    async with harness.service.storage.read() as tx:
        assert await tx.uploads.find(output) is None
        assert await tx.uploads.find(thumb) is None


async def test_uploads_of_a_job_that_is_not_settled_stay_however_old(harness: Harness) -> None:
    job_id = new_id()
    finished = await harness.deliver(harness.lease(job_id), png())
    partial = await harness.send(harness.lease(job_id), png(seed=1), 1)
    harness.clock.advance(timedelta(days=400))
    await harness.service.expiry.look()
    assert await harness.service.spool.names() == [partial]
    assert list((await harness.settle(job_id, {0: finished.receipt})).published) == [0]


async def test_an_output_without_a_good_receipt_is_lost(harness: Harness) -> None:
    job_id, other = new_id(), new_id()
    lease = harness.lease(job_id)
    good = (await harness.deliver(lease, png())).receipt
    head, body, signature = good.split(".")
    bad = {
        "tampered": f"{head}.{body[:-2]}.{signature}",
        "of another job": (await harness.deliver(harness.lease(other), png())).receipt,
        "of another index": (await harness.deliver(lease, png(seed=1), 1)).receipt,
        "a lease token": harness.capabilities.sign_lease(lease),
        "empty": "",
        "nonsense": "a.b.c",
    }
    reply = await harness.settle(job_id, {0: bad["tampered"], 2: bad["of another index"]})
    assert (list(reply.published), list(reply.lost)) == ([], [0, 2])
    others = [bad[what] for what in ("of another job", "a lease token", "empty", "nonsense")]
    reply = await harness.settle(new_id(), dict(enumerate(others)))
    assert (list(reply.published), list(reply.lost)) == ([], [0, 1, 2, 3])
    assert await harness.listed() == []


async def test_a_receipt_proves_its_own_output_and_no_other(harness: Harness) -> None:
    job_id = new_id()
    finished = await harness.deliver(harness.lease(job_id), png(), 1)
    receipts = Receipts(harness.capabilities)
    said = receipts.verify(finished.receipt, job_id=job_id, asset_index=1)
    assert said is not None
    assert said.upload_id == finished.upload_id
    assert receipts.verify(finished.receipt, job_id=job_id, asset_index=0) is None
    assert receipts.verify(finished.receipt, job_id=new_id(), asset_index=1) is None


async def test_an_output_whose_bytes_are_gone_is_lost_and_the_others_are_published(harness: Harness) -> None:
    job_id = new_id()
    lease = harness.lease(job_id)
    kept, gone = await harness.deliver(lease, png(), 0), await harness.deliver(lease, png(seed=1), 1)
    receipt = harness.capabilities.verify_receipt(gone.receipt)
    assert await harness.service.store.delete(receipt.bucket, receipt.key, receipt.generation)
    reply = await harness.settle(job_id, {0: kept.receipt, 1: gone.receipt})
    assert (list(reply.published), list(reply.lost)) == ([0], [1])


@pytest.mark.parametrize("whole", [False, True], ids=["a folder", "one file"])
async def test_a_torn_output_is_lost_and_no_job_waits_for_it(harness: Harness, whole: bool) -> None:
    """A job whose output will never be whole ends; what is left of the output is removed like any that lost."""
    job_id = new_id()
    receipt = await (upload_whole if whole else upload_in_steps)(harness, job_id)
    path = place_of(harness, receipt)
    part = path if whole else path / "data"
    os.truncate(part, part.stat().st_size - 3)

    reply = await harness.settle(job_id, {0: receipt})

    assert (list(reply.published), list(reply.lost)) == ([], [0])
    await harness.service.expiry.look()
    assert not path.exists()


async def test_an_output_that_the_system_does_not_read_is_waited_for(harness: Harness) -> None:
    job_id = new_id()
    receipt = await upload_whole(harness, job_id)
    path = place_of(harness, receipt)
    aside = path.rename(path.with_name("aside"))
    # A link that leads to itself is opened for nobody, as a file without a permission is not, for whoever may not all.
    path.symlink_to(path)
    assert isinstance(await refusal(harness.settle(job_id, {0: receipt})), Unavailable)

    path.unlink()
    aside.rename(path)

    assert list((await harness.settle(job_id, {0: receipt})).published) == [0]


async def upload_whole(harness: Harness, job_id: str) -> str:
    """Upload a small output in one message. Returns its receipt."""
    data = png()
    file = upload_service_pb2.OutputFile(data=data, sha256=sha256(data).hexdigest())
    request = upload_service_pb2.UploadOutputRequest(asset_index=0, files=[file])
    reply = await harness.uploads.UploadOutput(request, metadata=harness.as_worker(harness.lease(job_id)))
    return reply.receipt


async def upload_in_steps(harness: Harness, job_id: str) -> str:
    """Upload an output as large ones are. Returns its receipt."""
    return (await harness.deliver(harness.lease(job_id), png())).receipt


def place_of(harness: Harness, receipt: str) -> Path:
    """Return where the bytes of an output lie."""
    claims = harness.capabilities.verify_receipt(receipt)
    return harness.service.settings.blobs_dir / claims.bucket / f"{claims.key}.blob"


async def test_an_upload_of_somebody_else_is_not_published(harness: Harness) -> None:
    job_id = new_id()
    finished = await harness.deliver(harness.lease(job_id, owner=BOB), png())
    reply = await harness.settle(job_id, {0: finished.receipt}, owner=ANN)
    assert list(reply.lost) == [0]
    assert await harness.listed(ANN) == await harness.listed(BOB) == []


async def test_what_was_discarded_before_its_publication_is_never_seen(harness: Harness) -> None:
    job_id = new_id()
    lease = harness.lease(job_id)
    finished = [await harness.deliver(lease, png(seed=index), index) for index in (0, 1)]
    assert isinstance(await refusal(harness.discard(asset_id(job_id, 0), BOB)), NotFound)

    tombstone = await harness.discard(asset_id(job_id, 0))
    assert tombstone.state == asset_pb2.ASSET_STATE_REMOVED
    assert (tombstone.job_id, tombstone.asset_index) == (job_id, 0)

    reply = await harness.settle(job_id, {0: finished[0].receipt, 1: finished[1].receipt})
    assert (list(reply.published), list(reply.lost)) == ([0, 1], [])
    assert [asset.asset_index for asset in await harness.listed()] == [1]
    await harness.service.expiry.look()
    assert len(await harness.blobs()) == 1
    assert (await harness.discard(asset_id(job_id, 0))).state == asset_pb2.ASSET_STATE_REMOVED


async def test_what_was_never_published_cannot_be_discarded_after_the_settlement(harness: Harness) -> None:
    job_id = new_id()
    await harness.deliver(harness.lease(job_id), png())
    await harness.settle(job_id, {})
    assert isinstance(await refusal(harness.discard(asset_id(job_id, 0))), NotFound)


async def test_a_late_repeat_brings_nothing_back(harness: Harness) -> None:
    job_id = new_id()
    finished = await harness.deliver(harness.lease(job_id), png())
    first = await harness.settle(job_id, {0: finished.receipt})
    await harness.discard(asset_id(job_id, 0))
    await harness.service.expiry.look()
    assert await harness.settle(job_id, {0: finished.receipt}) == first
    assert await harness.listed() == []
    assert await harness.blobs() == []


async def test_settling_releases_the_references_of_the_job(harness: Harness) -> None:
    reference = await harness.bring(png())
    job_id = new_id()
    await harness.hold(f"job:{job_id}", reference.asset_id)
    await harness.confirm(f"job:{job_id}", reference.asset_id)
    await harness.discard(reference.asset_id)
    await harness.service.expiry.look()
    assert len(await harness.blobs()) == 1
    await harness.settle(job_id, {})
    await harness.service.expiry.look()
    assert await harness.blobs() == []


async def test_only_our_services_control_the_workspace(harness: Harness) -> None:
    pb = asset_control_service_pb2
    owner = wire_owner(ANN)
    calls = [
        (harness.control.Settle, pb.SettleRequest(job_id=new_id(), owner=owner)),
        (harness.control.TakeHold, pb.TakeHoldRequest(holder="x", owner=owner, ttl={"seconds": 1})),  # type: ignore[arg-type]
        (harness.control.ConfirmHold, pb.ConfirmHoldRequest(holder="x", owner=owner)),
        (harness.control.ReleaseHold, pb.ReleaseHoldRequest(holder="x")),
        (harness.control.MarkSaved, pb.MarkSavedRequest(asset_id="x", owner=owner, version=1)),
    ]
    for method, request in calls:
        error = await refusal(method(request, metadata=harness.as_user(ANN)))  # type: ignore[operator]
        assert isinstance(error, PermissionDenied)


async def test_a_settlement_names_whose_job_it_is(harness: Harness) -> None:
    request = asset_control_service_pb2.SettleRequest(job_id=new_id(), owner=media_pb2.Owner(tenant_id="default"))
    error = await refusal(harness.control.Settle(request, metadata=harness.as_router))
    assert isinstance(error, InvalidArgument)
    assert error.fields[0].field == "owner.owner_id"


async def test_a_job_id_that_cannot_be_one_is_settled_as_lost(harness: Harness) -> None:
    reply = await harness.settle("not-an-id", {0: "x"})
    assert list(reply.lost) == [0]
    assert await harness.settle("not-an-id", {}) == reply
