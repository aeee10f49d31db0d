"""Many jobs settled by one call: each answered by itself, once, and none harmed by another."""

from __future__ import annotations

from typing import Any

import pytest

from atelier.asset.v1 import asset_control_service_pb2 as pb
from service_kit.blobs import BlobInfo
from service_kit.errors import InvalidArgument
from service_kit.ids import new_id
from tests.asset_service.harness import ANN, BOB, Harness, on_both_databases, refusal, settlement, wire_owner
from tests.asset_service.pictures import png


async def delivered(harness: Harness, **lease: Any) -> tuple[str, str]:
    """Upload one output of a new job. Returns the job and the receipt."""
    job_id = new_id()
    finished = await harness.deliver(harness.lease(job_id, **lease), png())
    return job_id, finished.receipt


@on_both_databases
async def test_each_job_is_answered_in_the_order_of_the_request(harness: Harness) -> None:
    (first, good), (second, other) = await delivered(harness), await delivered(harness, owner=BOB)
    nothing = new_id()
    results = await harness.settle_jobs(
        settlement(nothing, {}), settlement(second, {0: other}, BOB), settlement(first, {0: good, 1: good})
    )
    assert [result.job_id for result in results] == [nothing, second, first]
    assert [(list(one.settled.published), list(one.settled.lost)) for one in results] == [
        ([], []),
        ([0], []),
        ([0], [1]),
    ]
    assert [asset.job_id for asset in await harness.listed(ANN)] == [first]
    assert [asset.job_id for asset in await harness.listed(BOB)] == [second]


async def test_a_repeat_alone_or_in_another_batch_gets_the_first_answer(harness: Harness) -> None:
    (first, good), (second, other) = await delivered(harness), await delivered(harness)
    once = await harness.settle_jobs(settlement(first, {0: good}), settlement(first, {}))
    assert [list(one.settled.published) for one in once] == [[0], [0]]
    again = await harness.settle_jobs(settlement(second, {0: other}), settlement(first, {}))
    assert [list(one.settled.published) for one in again] == [[0], [0]]
    assert list((await harness.settle(first, {})).published) == [0]
    assert len(await harness.listed()) == 2


@on_both_databases
async def test_a_settlement_that_can_never_be_carried_out_is_settled_as_none_and_harms_no_other(
    harness: Harness,
) -> None:
    (bad, its), (good, receipt) = await delivered(harness), await delivered(harness)
    reference = await harness.bring(png(seed=7))
    await harness.hold(f"job:{bad}", reference.asset_id)
    broken = pb.SettleRequest(job_id=bad, owner=wire_owner(ANN))
    broken.winners.add(asset_index=-1, receipt=its)
    ownerless = pb.SettleRequest(job_id=new_id())
    results = await harness.settle_jobs(broken, ownerless, pb.SettleRequest(), settlement(good, {0: receipt}))
    assert [one.WhichOneof("outcome") for one in results] == ["refused", "refused", "refused", "settled"]
    assert "winners[0].asset_index" in results[0].refused.message
    assert [asset.job_id for asset in await harness.listed() if asset.job_id] == [good]

    # For good: what is right comes too late, its uploads and holds are gone.
    [late] = await harness.settle_jobs(settlement(bad, {0: its}))
    assert late.refused.message == results[0].refused.message
    await harness.service.expiry.look()
    assert len(await harness.blobs()) == 2
    await harness.discard(reference.asset_id)
    await harness.service.expiry.look()
    assert len(await harness.blobs()) == 1


async def test_a_job_whose_bytes_cannot_be_looked_at_is_postponed_alone(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first, good), (second, other) = await delivered(harness), await delivered(harness)
    stat = harness.service.store.stat

    async def broken(bucket: str, key: str) -> BlobInfo | None:
        if first in key:
            raise OSError(5, "Input/output error")
        return await stat(bucket, key)

    monkeypatch.setattr(harness.service.store, "stat", broken)
    results = await harness.settle_jobs(settlement(first, {0: good}), settlement(second, {0: other}))
    assert [one.WhichOneof("outcome") for one in results] == ["postponed", "settled"]
    monkeypatch.undo()
    results = await harness.settle_jobs(settlement(first, {0: good}), settlement(second, {0: other}))
    assert [list(one.settled.published) for one in results] == [[0], [0]]


@on_both_databases
async def test_what_breaks_a_batch_is_told_of_one_job_only(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    (first, good), (second, other) = await delivered(harness), await delivered(harness)
    write = "asset_service.settlement.published_asset"
    from asset_service.domain import published_asset

    def broken(upload: Any, *rest: Any, **named: Any) -> Any:
        if upload.job_id == first:
            raise ValueError("a fault of ours")
        return published_asset(upload, *rest, **named)

    monkeypatch.setattr(write, broken)
    results = await harness.settle_jobs(settlement(first, {0: good}), settlement(second, {0: other}))
    assert [one.WhichOneof("outcome") for one in results] == ["postponed", "settled"]
    monkeypatch.undo()
    [late] = await harness.settle_jobs(settlement(first, {0: good}))
    assert list(late.settled.published) == [0]


async def test_an_asset_that_is_there_is_published_though_its_settlement_was_trimmed(harness: Harness) -> None:
    job_id, receipt = await delivered(harness)
    await harness.settle_jobs(settlement(job_id, {0: receipt}))
    harness.clock.advance(harness.service.settings.asset.retention_settlements)
    async with harness.service.storage.write() as tx:
        assert await tx.settlements.trim(harness.service.settings.asset.retention_settlements) == 1
    [again] = await harness.settle_jobs(settlement(job_id, {0: receipt}))
    assert list(again.settled.published) == [0]
    assert len(await harness.listed()) == 1


async def test_a_batch_has_an_end(harness: Harness) -> None:
    request = pb.SettleJobsRequest(settlements=[settlement(new_id(), {}) for _ in range(257)])
    assert isinstance(await refusal(harness.control.SettleJobs(request, metadata=harness.as_router)), InvalidArgument)
