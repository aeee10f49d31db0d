"""What makes repeats harmless: submissions, outcomes, and what the asset service has to be told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy.exc import IntegrityError

from router_service.domain import LeaseRef
from router_service.generation_domain import Reference
from router_service.storage import Storage
from router_service.storage.ledger import OutboxKind, Submission
from service_kit.clock import ManualClock
from service_kit.database import Database
from service_kit.identity import Owner
from tests.storage.both import job

ANN, BOB, CAT = Owner("t", "ann"), Owner("t", "bob"), Owner("u", "ann")
SECOND, MOMENT = timedelta(seconds=1), timedelta(microseconds=1)
CLAIM = 10 * SECOND


def submission(job_id: str, key: str | None = "key", *, owner: Owner = ANN, digest: str = "d") -> Submission:
    return Submission(owner, key, digest, job_id)


async def test_a_key_is_used_once_by_each_owner(router: Storage, clock: ManualClock) -> None:
    first, bobs = submission("j1"), submission("j3", owner=BOB)
    async with router.write() as tx:
        new = [first, submission("j2", "other"), bobs]
        assert await tx.ledger.add_submissions(new, clock.now()) == {"j1", "j2", "j3"}
        assert await tx.ledger.add_submissions([], clock.now()) == set()
    async with router.write() as tx:
        again = [submission("j9", digest="e"), submission("j4", "new"), submission("j5", owner=CAT)]
        assert await tx.ledger.add_submissions(again, clock.now()) == {"j4", "j5"}
        assert await tx.ledger.find_submissions([(ANN, "key"), (BOB, "key"), (BOB, "other")]) == {
            (ANN, "key"): first,
            (BOB, "key"): bobs,
        }
        assert await tx.ledger.find_submissions([]) == {}


async def test_without_a_key_equal_submissions_are_found_by_what_they_ask(router: Storage, clock: ManualClock) -> None:
    async with router.write() as tx:
        assert await tx.ledger.add_submissions([submission("j1", None)], clock.now()) == {"j1"}
        clock.advance(SECOND)
        newer = submission("j2", None)
        assert await tx.ledger.add_submissions([newer, submission("j3", None, owner=BOB)], clock.now()) == {"j2", "j3"}
        found = await tx.ledger.find_equal_submissions([(ANN, "d"), (ANN, "other"), (CAT, "d")], within=SECOND)
        assert found == {(ANN, "d"): newer}
        assert await tx.ledger.find_equal_submissions([], within=SECOND) == {}
    clock.advance(SECOND)
    async with router.write() as tx:
        assert await tx.ledger.find_equal_submissions([(ANN, "d")], within=SECOND) == {}
        assert await tx.ledger.remove_old_submissions(2 * SECOND) == 0
        assert await tx.ledger.remove_old_submissions(SECOND) == 1
        assert await tx.ledger.remove_old_submissions(timedelta(0)) == 2
        assert await tx.ledger.find_submissions([(ANN, "key")]) == {}


async def test_of_equal_keys_at_once_one_becomes_a_job(
    open_database: Callable[[str], Database], clock: ManualClock
) -> None:
    """Eight submits at two replicas, in batches that hold the keys in different orders."""
    stores = [Storage(open_database("router")) for _ in range(2)]

    async def submit(number: int) -> set[str]:
        batch = [submission(f"j{number}-{key}", key) for key in ("k1", "k2", "k3")]
        async with stores[number % 2].write() as tx:
            return await tx.ledger.add_submissions(batch if number % 3 else batch[::-1], clock.now())

    answers = await asyncio.gather(*(submit(number) for number in range(8)))
    remembered = [job_id for answer in answers for job_id in answer]
    assert sorted(job_id.split("-")[1] for job_id in remembered) == ["k1", "k2", "k3"]
    async with stores[0].read() as tx:
        known = await tx.ledger.find_submissions([(ANN, key) for key in ("k1", "k2", "k3")])
    assert {found.job_id for found in known.values()} == set(remembered)


async def test_an_outcome_is_recorded_once(router: Storage, clock: ManualClock) -> None:
    first = (LeaseRef("j1", 0, 3), "c1", b"\0payload")
    async with router.write() as tx:
        await tx.ledger.add_outcomes(
            [first, (LeaseRef("j1", 1, 4), "c1", b""), (LeaseRef("j2", 0, 1), "c2", b"")], clock.now()
        )
        await tx.ledger.add_outcomes([], clock.now())
        assert await tx.ledger.find_outcomes(["j1", "unknown"]) == {("j1", 0, "c1"), ("j1", 1, "c1")}
        assert await tx.ledger.find_outcomes([]) == set()
    with pytest.raises(IntegrityError):
        async with router.write() as tx:
            await tx.ledger.add_outcomes([first], clock.now())
    async with router.read() as tx:
        assert len(await tx.ledger.find_outcomes(["j1"])) == 2


async def test_what_has_to_be_told_is_claimed_oldest_first_and_by_one(router: Storage, clock: ManualClock) -> None:
    async with router.write() as tx:
        await tx.ledger.send(OutboxKind.SETTLE, ["j2", "j1"], clock.now())
        await tx.ledger.send(OutboxKind.CONFIRM, ["j2"], clock.now())
        await tx.ledger.send(OutboxKind.SETTLE, [], clock.now())
    clock.advance(SECOND)
    async with router.write() as tx:
        await tx.ledger.send(OutboxKind.SETTLE, ["j0"], clock.now())
        [first] = await tx.ledger.claim_due(OutboxKind.SETTLE, limit=1, claim_for=CLAIM)
        assert (first.kind, first.job_id, first.tries) == (OutboxKind.SETTLE, "j2", 0)
        rest = await tx.ledger.claim_due(OutboxKind.SETTLE, limit=9, claim_for=CLAIM)
        assert [entry.job_id for entry in rest] == ["j1", "j0"]
        assert await tx.ledger.claim_due(OutboxKind.SETTLE, limit=9, claim_for=CLAIM) == []
        confirm = await tx.ledger.claim_due(OutboxKind.CONFIRM, limit=9, claim_for=CLAIM)
        assert [entry.job_id for entry in confirm] == ["j2"]
        await tx.ledger.sent(OutboxKind.SETTLE, ["j2", "unknown"])
        await tx.ledger.sent(OutboxKind.SETTLE, [])
    clock.advance(CLAIM)
    async with router.write() as tx:
        # Whoever claimed the others died: nothing is lost, and nothing comes back that was told.
        again = await tx.ledger.claim_due(OutboxKind.SETTLE, limit=9, claim_for=CLAIM)
        assert [entry.job_id for entry in again] == ["j1", "j0"]
        assert [entry.job_id for entry in await tx.ledger.claim_due(OutboxKind.CONFIRM, limit=9, claim_for=CLAIM)] == [
            "j2"
        ]


async def test_only_what_the_asset_service_may_have_something_of_is_settled(
    router: Storage, clock: ManualClock
) -> None:
    held = Reference("a1", "init", 0.5)
    ended = [
        job("pictures", clock.now()),
        job("text", clock.now(), outputs=()),
        job("text with a reference", clock.now(), outputs=(), references=(held,)),
    ]
    async with router.write() as tx:
        await tx.ledger.settle(ended, clock.now())
    async with router.write() as tx:
        due = await tx.ledger.claim_due(OutboxKind.SETTLE, limit=9, claim_for=CLAIM)
        assert [entry.job_id for entry in due] == ["pictures", "text with a reference"]


async def test_an_entry_may_be_claimed_by_whoever_writes_it(router: Storage, clock: ManualClock) -> None:
    async with router.write() as tx:
        await tx.ledger.send(OutboxKind.SETTLE, ["j1"], clock.now(), claim_for=CLAIM)
    clock.advance(CLAIM - MOMENT)
    async with router.write() as tx:
        assert await tx.ledger.claim_due(OutboxKind.SETTLE, limit=9, claim_for=CLAIM) == []
    clock.advance(MOMENT)
    async with router.write() as tx:
        due = await tx.ledger.claim_due(OutboxKind.SETTLE, limit=9, claim_for=CLAIM)
        assert [(entry.job_id, entry.tries) for entry in due] == [("j1", 0)]


async def test_a_claim_that_is_renewed_ends_later_and_brings_back_nothing(router: Storage, clock: ManualClock) -> None:
    async with router.write() as tx:
        await tx.ledger.send(OutboxKind.SETTLE, ["j1", "j2", "j3"], clock.now())
        claimed = await tx.ledger.claim_due(OutboxKind.SETTLE, limit=9, claim_for=CLAIM)
        await tx.ledger.sent(OutboxKind.SETTLE, ["j2"])
    clock.advance(CLAIM - MOMENT)
    async with router.write() as tx:
        await tx.ledger.renew_claim(claimed[:2], claim_for=CLAIM)
    clock.advance(MOMENT)
    async with router.write() as tx:
        due = await tx.ledger.claim_due(OutboxKind.SETTLE, limit=9, claim_for=CLAIM)
        assert [entry.job_id for entry in due] == ["j3"]
    clock.advance(CLAIM - MOMENT)
    async with router.write() as tx:
        due = await tx.ledger.claim_due(OutboxKind.SETTLE, limit=9, claim_for=CLAIM)
        assert [entry.job_id for entry in due] == ["j1"]


async def test_what_could_not_be_told_is_tried_again_later(router: Storage, clock: ManualClock) -> None:
    async with router.write() as tx:
        await tx.ledger.send(OutboxKind.SETTLE, ["j1", "j2"], clock.now())
        one, two = await tx.ledger.claim_due(OutboxKind.SETTLE, limit=9, claim_for=CLAIM)
        await tx.ledger.put_off([(one, 2 * SECOND), (two, SECOND)], clock.now())
        await tx.ledger.put_off([], clock.now())
        assert await tx.ledger.claim_due(OutboxKind.SETTLE, limit=9, claim_for=CLAIM) == []
    clock.advance(SECOND)
    async with router.write() as tx:
        due = await tx.ledger.claim_due(OutboxKind.SETTLE, limit=9, claim_for=CLAIM)
        assert [(entry.job_id, entry.tries) for entry in due] == [("j2", 1)]


async def test_an_entry_of_the_future_is_of_a_clock_that_was_set_back(router: Storage, clock: ManualClock) -> None:
    async with router.write() as tx:
        await tx.ledger.send(OutboxKind.SETTLE, ["j1"], clock.now() + timedelta(hours=1) + MOMENT)
        await tx.ledger.send(OutboxKind.SETTLE, ["j2"], clock.now() + timedelta(hours=1))
        due = await tx.ledger.claim_due(OutboxKind.SETTLE, limit=9, claim_for=CLAIM)
        assert [entry.job_id for entry in due] == ["j1"]


async def test_what_is_undone_is_not_told(router: Storage, clock: ManualClock) -> None:
    with pytest.raises(KeyError):
        async with router.write() as tx:
            await tx.ledger.send(OutboxKind.SETTLE, ["j1"], clock.now())
            raise KeyError
    async with router.write() as tx:
        assert await tx.ledger.claim_due(OutboxKind.SETTLE, limit=9, claim_for=CLAIM) == []


async def test_two_that_claim_at_once_never_get_the_same_and_do_not_wait(
    open_database: Callable[[str], Database], clock: ManualClock, backend: str
) -> None:
    if backend == "sqlite":
        pytest.skip("there is one writer")
    one, two = Storage(open_database("router")), Storage(open_database("router"))
    async with one.write() as tx:
        await tx.ledger.send(OutboxKind.SETTLE, ["j1", "j2", "j3"], clock.now())
    async with one.write() as first, two.write() as second:
        mine = await first.ledger.claim_due(OutboxKind.SETTLE, limit=2, claim_for=CLAIM)
        others = await second.ledger.claim_due(OutboxKind.SETTLE, limit=9, claim_for=CLAIM)
    assert [[entry.job_id for entry in each] for each in (mine, others)] == [["j1", "j2"], ["j3"]]
