"""Two replicas at once on PostgreSQL: whoever comes second finds what the first one did. SQLite hides such races."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import pytest
import pytest_asyncio
from sqlalchemy import text

from router_service.__main__ import Service
from router_service.domain import Format, Job, JobState, LeaseRef
from router_service.plans import Request
from router_service.recording import DUPLICATE, RECORDED, STALE, Outcome, OutputReport
from router_service.registry_domain import ConnectedWorker
from router_service.sessions import Session
from router_service.settlement import Answer, Postponed, Refused, Settled, Settlement
from router_service.storage import Storage
from router_service.storage.jobs import Wanted
from router_service.storage.limits import Allowance
from router_service.storage.queue import Candidate, Queue, QueueKey
from service_kit import settings as kit_settings
from service_kit.capabilities import Receipt
from service_kit.channels import connect
from service_kit.clock import ManualClock
from service_kit.database import Database
from service_kit.database_clock import DatabaseClock
from service_kit.errors import Aborted, AtelierError, ErrorReason, FailedPrecondition, InvalidArgument
from service_kit.identity import Owner

ANN = Owner("default", "ann")
TTL = timedelta(seconds=30)
WAIT_S = 10.0


class Assets:
    """An asset service that answers as a test says, and remembers what it was told."""

    def __init__(self) -> None:
        self.settled: list[str] = []
        self.answers: dict[str, Answer] = {}
        self.breaks: set[str] = set()
        self.gate = asyncio.Event()
        self.gate.set()
        self.told = asyncio.Event()

    async def settle(self, jobs: Sequence[Job]) -> Sequence[Answer]:
        await self.gate.wait()
        if self.breaks & {job.job_id for job in jobs}:
            raise InvalidArgument("one of these is not well-formed")
        self.settled += [job.job_id for job in jobs]
        self.told.set()
        usual = Settled((0,), ())
        return [self.answers.get(job.job_id, usual) for job in jobs]

    async def confirm_hold(self, job: Job) -> None:
        """Nothing is held in these tests."""


class Replica:
    """A router without its loops: it does what a test calls, and nothing else."""

    def __init__(self, service: Service, assets: Assets) -> None:
        self.service = service
        self._assets = assets
        self.settlement = Settlement(service.storage, assets, service.signals, service.handover)

    def claiming_for(self, claim_for: timedelta) -> Settlement:
        """Return what sends the outbox and claims for another time than usual."""
        service = self.service
        return Settlement(service.storage, self._assets, service.signals, service.handover, claim_for)

    def connect(self, name: str, *, free: int, worker_type: str = "sdxl") -> Session:
        """Connect a worker that takes so many stages."""
        worker = ConnectedWorker(f"key/{name}", f"{name}'s session", (worker_type,), (), max(free, 1), (), "")
        session = Session(worker)
        session.credits = free
        self.service.sessions.add(session)
        return session

    async def submit(self, *, key: str | None = None, prompt: str = "a lighthouse", is_retry: bool = False) -> Job:
        """Submit a picture."""
        table = await self.service.registry.table()
        return await self.service.admission.admit(request(key, prompt), table, ANN, is_retry=is_retry)

    async def record(self, ref: LeaseRef, *, by: str = "key/one", completion_id: str = "c") -> str:
        """Report that the one output of a stage is there."""
        receipt = self.service.capabilities.sign_receipt(receipt_of(ref))
        outcome = Outcome(ref, completion_id, (OutputReport(0, receipt, None),), None, None, False, False, (), "", b"x")
        session = f"{by.removeprefix('key/')}'s session"
        return await self.service.recording.record(outcome, holder=by, session=session)

    async def job(self, job_id: str) -> Job:
        """Return a job as it is now."""
        async with self.service.storage.read() as tx:
            job = await tx.jobs.get(job_id)
        assert job is not None
        return job

    async def events(self, job_id: str) -> list[JobState]:
        """Return the states that the watchers of a job are told of, in order."""
        async with self.service.storage.read() as tx:
            return [event.job.state for event in await tx.events.find_after(0, owner=ANN, job_id=job_id)]


class House:
    """Two replicas on one database, and what holds both back."""

    def __init__(self, one: Replica, other: Replica, assets: Assets, clock: ManualClock, db: Database) -> None:
        self.one = one
        self.other = other
        self.assets = assets
        self.clock = clock
        self._db = db

    async def running(self, *, acknowledged: bool = True) -> LeaseRef:
        """Submit a job and lease it to the worker `one`, of replica one."""
        session = next(iter(self.one.service.sessions), None) or self.one.connect("one", free=100)
        await self.one.submit()
        before = set(session.held.values())
        assert await self.one.service.dispatch.lease_waiting() == 1
        (ref,) = set(session.held.values()) - before
        if acknowledged:
            await self.one.service.dispatch.acknowledge(session, ref)
            await self.one.service.acknowledgements.flush()
        return ref

    def third(self) -> Storage:
        """Return what a third replica sees."""
        return Storage(self._db)

    @asynccontextmanager
    async def locked(self, job_id: str) -> AsyncIterator[None]:
        """Lock a job, as a third replica would, so that others queue up for it in the order in which they come."""
        async with self._db.write() as tx:
            await tx.execute(text("SELECT 1 FROM jobs WHERE job_id = :job_id FOR UPDATE"), {"job_id": job_id})
            yield

    @asynccontextmanager
    async def nothing_committed(self) -> AsyncIterator[None]:
        """Let no transaction commit that changes a job of an owner who has jobs already."""
        async with self._db.write() as tx:
            await tx.execute(text("SELECT 1 FROM event_heads FOR UPDATE"))
            yield

    async def queued_up(self, count: int) -> None:
        """Wait until so many transactions wait for a lock."""
        waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        async with asyncio.timeout(WAIT_S):
            while True:
                async with self._db.read() as tx:
                    if (await tx.execute(waiting)).scalar_one() >= count:
                        return

    async def is_due(self, within: timedelta) -> bool:
        """Tell whether something in the outbox waits for somebody to claim it, or will within this time."""
        due = text("SELECT count(*) FROM outbox WHERE due_at <= :moment")
        async with self._db.read() as tx:
            return bool((await tx.execute(due, {"moment": self.clock.now() + within})).scalar_one())

    async def claimed(self, within: timedelta = timedelta(0)) -> None:
        """Wait until all that is in the outbox is claimed, for longer than this."""
        async with asyncio.timeout(WAIT_S):
            while await self.is_due(within):  # noqa: ASYNC110 - only the database knows
                await asyncio.sleep(0)

    async def in_order(self, job_id: str, *steps: Awaitable[Any]) -> list[Any]:
        """Let several try to change a job at once; they get at it in this order. Returns results and errors."""
        tasks: list[asyncio.Future[Any]] = []
        async with self.locked(job_id):
            for step in steps:
                tasks.append(asyncio.ensure_future(step))
                await self.queued_up(len(tasks))
        return await asyncio.gather(*tasks, return_exceptions=True)


def request(key: str | None, prompt: str) -> Request:
    """Return a request for a picture."""
    return Request(
        prompt=prompt,
        negative_prompt="",
        model="sdxl",
        format=Format.IMAGE,
        quantity=1,
        seed=0,
        quality=None,
        aspect_ratio=None,
        steps=None,
        duration_seconds=None,
        references=(),
        enhancement_only=False,
        enhance_prompt=False,
        warn_on_enhancement_failure=False,
        priority=0,
        idempotency_key=key,
        digest=prompt,
    )


def receipt_of(ref: LeaseRef) -> Receipt:
    """Return what the asset service says of the first output of a stage."""
    return Receipt(
        upload_id="u",
        job_id=ref.job_id,
        stage=ref.stage,
        fence=ref.fence,
        asset_index=0,
        bucket="b",
        key="k",
        generation="1",
        sha256="0" * 64,
        size_bytes=1,
        content_type="image/png",
        width=1,
        height=1,
        duration_ms=None,
        renditions=(),
    )


@pytest_asyncio.fixture
async def house(tmp_path: Path, migrated_postgres_url: str) -> AsyncIterator[House]:
    """Give two replicas that do nothing by themselves."""
    clock, assets = ManualClock(datetime.now(UTC)), Assets()
    settings = kit_settings.for_tests(tmp_path, **{"core.database_url": migrated_postgres_url})
    async with AsyncExitStack() as stack:
        replicas = []
        for _ in range(2):
            db = await Database.open_service(settings, "router", clock=clock)
            stack.push_async_callback(db.close)
            channel = connect("127.0.0.1:1")
            stack.push_async_callback(channel.close)
            replicas.append(Replica(Service(settings, db, DatabaseClock(db), channel), assets))
        third = Database(migrated_postgres_url, schema="router", clock=clock)
        stack.push_async_callback(third.close)
        yield House(replicas[0], replicas[1], assets, clock, third)


# --- submissions ------------------------------------------------------------------------------------------------------


async def test_one_key_makes_one_job_however_many_submit_it_at_once(house: House) -> None:
    submits = [replica.submit(key="k") for _ in range(16) for replica in (house.one, house.other)]
    jobs = await asyncio.gather(*submits)
    assert len({job.job_id for job in jobs}) == 1
    async with house.one.service.storage.read() as tx:
        assert len(await tx.jobs.find_page(ANN, Wanted(), limit=10)) == 1
    assert await house.other.events(jobs[0].job_id) == [JobState.QUEUED]


async def test_keys_that_come_in_opposite_orders_wait_for_each_other_and_never_in_a_circle(house: House) -> None:
    keys = [f"k{number}" for number in range(32)]
    here = [house.one.submit(key=key) for key in keys]
    there = [house.other.submit(key=key) for key in reversed(keys)]
    jobs = await asyncio.gather(*here, *there)
    assert len({job.job_id for job in jobs}) == 32


async def test_retries_without_a_key_at_two_replicas_at_once_are_one_job(house: House) -> None:
    await house.one.submit(prompt="a harbour")
    async with house.nothing_committed():
        first = asyncio.ensure_future(house.one.submit(is_retry=True))
        await house.queued_up(1)
        second = asyncio.ensure_future(house.other.submit(is_retry=True))
        await house.queued_up(2)
    assert (await first).job_id == (await second).job_id
    submits = [replica.submit(prompt="x", is_retry=True) for _ in range(16) for replica in (house.one, house.other)]
    assert len({job.job_id for job in await asyncio.gather(*submits)}) == 1


async def test_a_retry_waits_for_the_equal_submission_that_is_on_its_way(house: House) -> None:
    await house.one.submit(prompt="a harbour")
    async with house.nothing_committed():
        first = asyncio.ensure_future(house.one.submit())
        await house.queued_up(1)
        retry = asyncio.ensure_future(house.other.submit(is_retry=True))
        await house.queued_up(2)
    assert (await first).job_id == (await retry).job_id
    in_one_batch = await asyncio.gather(house.one.submit(prompt="x"), house.one.submit(prompt="x", is_retry=True))
    assert len({job.job_id for job in in_one_batch}) == 1
    deliberate = await asyncio.gather(*(replica.submit(prompt="y") for replica in (house.one, house.other)))
    assert len({job.job_id for job in deliberate}) == 2


async def test_a_key_with_another_request_is_refused_wherever_it_comes(house: House) -> None:
    submits = [house.one.submit(key="k"), house.other.submit(key="k", prompt="a harbour")]
    results = await asyncio.gather(*submits, return_exceptions=True)
    (refused,) = [result for result in results if isinstance(result, Aborted)]
    assert refused.reason is ErrorReason.IDEMPOTENCY_KEY_REUSED


# --- leasing ----------------------------------------------------------------------------------------------------------


async def test_replicas_that_lease_at_once_lease_every_stage_once(house: House) -> None:
    made = {job.job_id for job in await asyncio.gather(*(house.one.submit() for _ in range(40)))}
    sessions = [house.one.connect("one", free=25), house.other.connect("two", free=25)]
    rounds = [replica.service.dispatch.lease_waiting() for _ in range(3) for replica in (house.one, house.other)]
    assert sum(await asyncio.gather(*rounds)) == 40
    held = [ref.job_id for session in sessions for ref in session.held.values()]
    assert sorted(held) == sorted(made)
    assert {ref.fence for session in sessions for ref in session.held.values()} == {1}
    async with house.one.service.storage.read() as tx:
        leases = [*await tx.leases.find_held("key/one"), *await tx.leases.find_held("key/two")]
    assert sorted(lease.ref.job_id for lease in leases) == sorted(made)


async def test_rounds_of_two_pools_lease_no_more_of_an_owner_than_may_run(house: House) -> None:
    async with house.one.service.storage.write() as tx:
        await tx.limits.put(ANN, Allowance(running_jobs=1))
    await house.one.submit()
    video = replace(request(None, "x"), model="wan", format=Format.VIDEO)
    await house.other.service.admission.admit(video, await house.other.service.registry.table(), ANN)
    house.one.connect("one", free=1)
    house.other.connect("two", free=1, worker_type="wan")
    async with house.nothing_committed():
        first = asyncio.ensure_future(house.one.service.dispatch.lease_waiting())
        await house.queued_up(1)
        second = asyncio.ensure_future(house.other.service.dispatch.lease_waiting())
        await house.queued_up(2)
    assert (await first, await second) == (1, 0)


async def test_what_somebody_else_has_locked_is_passed_over_not_waited_for(house: House) -> None:
    locked, free = await house.one.submit(), await house.one.submit()
    session = house.one.connect("one", free=5)
    async with house.locked(locked.job_id):
        assert await house.one.service.dispatch.lease_waiting() == 1
    assert list(session.held) == [free.job_id]
    assert await house.one.service.dispatch.lease_waiting() == 1


# --- outcomes, against everything else --------------------------------------------------------------------------------


async def test_of_two_repeats_at_once_one_is_recorded_and_the_other_is_its_duplicate(house: House) -> None:
    ref = await house.running()
    said = await house.in_order(ref.job_id, house.one.record(ref), house.other.record(ref))
    assert said == [RECORDED, DUPLICATE]
    assert await house.one.events(ref.job_id) == [JobState.QUEUED, JobState.RUNNING, JobState.PUBLISHING]


async def test_of_two_outcomes_at_once_the_second_is_stale(house: House) -> None:
    ref = await house.running()
    second = house.other.record(ref, completion_id="d")
    assert await house.in_order(ref.job_id, house.one.record(ref), second) == [RECORDED, STALE]


@pytest.mark.parametrize("cancel_first", [False, True])
async def test_a_cancel_beside_an_outcome(house: House, cancel_first: bool) -> None:
    ref = await house.running()
    cancel, record = house.other.service.ending.cancel(ref.job_id, ANN), house.one.record(ref)
    if cancel_first:
        cancelled, status = await house.in_order(ref.job_id, cancel, record)
        assert (cancelled.state, status) == (JobState.CANCELLED, STALE)
    else:
        status, refused = await house.in_order(ref.job_id, record, cancel)
        assert status == RECORDED
        assert isinstance(refused, FailedPrecondition)
        assert refused.reason is ErrorReason.TOO_LATE
    assert (await house.one.job(ref.job_id)).state is (JobState.CANCELLED if cancel_first else JobState.PUBLISHING)


async def test_an_outcome_that_is_being_recorded_is_not_reaped(house: House) -> None:
    ref = await house.running()
    house.clock.advance(TTL + timedelta(seconds=1))
    async with house.locked(ref.job_id):
        # Its row is in somebody's hands, so the reaper passes on.
        assert await house.other.service.dispatch.take_back_expired(ack_timeout=TTL) == 0
    assert await house.one.record(ref) == RECORDED
    assert await house.other.service.dispatch.take_back_expired(ack_timeout=TTL) == 0


async def test_an_outcome_that_comes_right_after_the_reaper_still_counts_once(house: House) -> None:
    ref = await house.running()
    house.clock.advance(TTL + timedelta(seconds=1))
    reaped = [replica.service.dispatch.take_back_expired(ack_timeout=TTL) for replica in (house.one, house.other)]
    assert sum(await asyncio.gather(*reaped)) == 1
    assert (await house.one.job(ref.job_id)).state is JobState.QUEUED
    house.other.connect("two", free=1)
    record, leased = await asyncio.gather(house.one.record(ref), house.other.service.dispatch.lease_waiting())
    assert (record, leased) in {(RECORDED, 0), (STALE, 1)}


async def test_a_lease_that_is_renewed_under_the_reapers_eyes_is_kept(house: House) -> None:
    ref = await house.running()
    house.clock.advance(TTL + timedelta(seconds=1))
    rules = {"lease_ttl": TTL, "ack_timeout": TTL}
    async with house.third().write() as tx:
        assert await tx.leases.find_expired(**rules, limit=9) == [ref.job_id]
        (session,) = house.one.service.sessions
        assert await house.one.service.dispatch.renew(session, [ref]) == ([], [])
        assert await tx.leases.lock_expired([ref.job_id], **rules) == {}


@pytest.mark.parametrize("deadline_first", [False, True])
async def test_a_deadline_beside_an_outcome(house: House, deadline_first: bool) -> None:
    ref = await house.running()
    house.clock.advance(timedelta(hours=1))
    if deadline_first:
        assert await house.other.service.ending.fail_overdue() == 1
        assert await house.one.record(ref) == STALE
        assert (await house.one.job(ref.job_id)).state is JobState.FAILED
        return
    async with house.locked(ref.job_id):
        record = asyncio.ensure_future(house.one.record(ref))
        await house.queued_up(1)
        assert await house.other.service.ending.fail_overdue() == 0, "it is in somebody's hands"
    assert await record == RECORDED
    assert await house.other.service.ending.fail_overdue() == 0


async def test_a_deadline_looks_again_under_the_lock(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    refs = {"recorded": await house.running(), "overdue": await house.running()}
    assert await house.one.record(refs["recorded"]) == RECORDED
    found = AsyncMock(return_value=[ref.job_id for ref in refs.values()])
    monkeypatch.setattr(Queue, "find_overdue", found)
    assert await house.one.service.ending.fail_overdue() == 0, "neither is overdue"
    house.clock.advance(timedelta(hours=1))
    assert await house.one.service.ending.fail_overdue() == 1
    states = {name: (await house.one.job(ref.job_id)).state for name, ref in refs.items()}
    assert states == {"recorded": JobState.PUBLISHING, "overdue": JobState.FAILED}


async def test_a_deadline_ends_a_job_once_whoever_looks(house: House) -> None:
    refs = [await house.running() for _ in range(3)]
    house.clock.advance(timedelta(hours=1))
    ended = [replica.service.ending.fail_overdue() for replica in (house.one, house.other)]
    assert sum(await asyncio.gather(*ended)) == 3
    for ref in refs:
        assert (await house.one.events(ref.job_id))[-1:] == [JobState.FAILED]
        assert (await house.one.events(ref.job_id)).count(JobState.FAILED) == 1


async def test_acknowledgements_and_outcomes_of_the_same_leases_never_wait_in_a_circle(house: House) -> None:
    refs = [await house.running(acknowledged=False) for _ in range(12)]
    (session,) = house.one.service.sessions
    acks = [house.one.service.dispatch.acknowledge(session, ref) for ref in reversed(refs)]
    renewals = [house.one.service.dispatch.renew(session, refs)]
    records = [house.other.record(ref) for ref in refs]
    done = await asyncio.gather(*acks, *renewals, *records)
    assert done[len(acks) + 1 :] == [RECORDED] * 12
    async with house.one.service.storage.read() as tx:
        assert await tx.leases.find_held("key/one") == []


async def test_a_free_slot_wakes_the_leasing_unless_the_last_round_left_nothing(house: House) -> None:
    session = house.one.connect("one", free=8)
    dispatch, wake = house.one.service.dispatch, house.one.service.signals.queue

    async def round_with(free: int) -> int:
        session.credits = free + len(session.unacknowledged)
        return await dispatch.lease_waiting()

    def wakes(said_by: Session) -> bool:
        wake.clear()
        dispatch.slots_changed(said_by)
        return wake.is_set()

    await house.one.submit()
    await house.one.submit()
    assert await round_with(free=1) == 1
    assert wakes(session), "one waits still"
    assert await round_with(free=2) == 1
    assert not wakes(session), "nothing waits"
    elsewhere = Session(replace(session.worker, holder="key/two", session="another", worker_types=("video",)))
    assert wakes(elsewhere), "what it takes was not looked for"
    await house.one.submit()
    assert await round_with(free=0) == 0
    assert wakes(session), "something came while no slot was free"
    assert await round_with(free=2) == 1
    assert not wakes(session), "that one is leased"


# --- settlements ------------------------------------------------------------------------------------------------------


async def test_replicas_that_settle_at_once_tell_of_every_job_once(house: House) -> None:
    refs = [await house.running() for _ in range(10)]
    await asyncio.gather(*(house.one.record(ref) for ref in refs))
    sent = await asyncio.gather(house.one.settlement.send_due(), house.other.settlement.send_due())
    assert sum(sent) == 10
    assert sorted(house.assets.settled) == sorted(ref.job_id for ref in refs)
    for ref in refs:
        assert (await house.one.events(ref.job_id))[-2:] == [JobState.PUBLISHING, JobState.SUCCEEDED]


async def test_what_a_replica_claimed_that_died_is_sent_by_another_when_its_time_is_over(house: House) -> None:
    ref = await house.running()
    await house.one.record(ref)
    house.assets.gate.clear()
    dying = asyncio.ensure_future(house.one.settlement.send_due())
    await house.claimed()
    dying.cancel()
    await asyncio.wait([dying])
    house.assets.gate.set()
    assert await house.other.settlement.send_due() == 0
    house.clock.advance(timedelta(seconds=3))
    assert await house.other.settlement.send_due() == 1
    assert (await house.one.job(ref.job_id)).state is JobState.SUCCEEDED


async def test_what_is_handed_over_is_sent_without_being_found_due(house: House) -> None:
    running = asyncio.ensure_future(house.one.settlement.run())
    try:
        ref = await house.running()
        await house.one.record(ref)
        async with asyncio.timeout(WAIT_S):
            # The clock stands still, so that nothing that is claimed becomes due.
            await house.assets.told.wait()
    finally:
        running.cancel()
        await asyncio.wait([running])
    assert house.assets.settled == [ref.job_id]


async def test_what_was_handed_over_in_a_replica_that_died_is_sent_by_another(house: House) -> None:
    handover = house.one.service.handover
    handover.open()
    ref = await house.running()
    await house.one.record(ref)
    assert await house.other.settlement.send_due() == 0
    handover.close()
    house.clock.advance(timedelta(seconds=3))
    assert await house.other.settlement.send_due() == 1
    assert (await house.one.job(ref.job_id)).state is JobState.SUCCEEDED


async def test_a_claim_holds_as_long_as_its_answer_is_due(house: House) -> None:
    ref = await house.running()
    await house.one.record(ref)
    house.assets.gate.clear()
    slow = asyncio.ensure_future(house.one.claiming_for(timedelta(milliseconds=30)).send_due())
    await house.claimed()
    for _ in range(3):
        house.clock.advance(timedelta(milliseconds=29))
        await house.claimed(within=timedelta(milliseconds=29))
        assert await house.other.settlement.send_due() == 0
    house.assets.gate.set()
    assert await slow == 1
    assert house.assets.settled == [ref.job_id]


async def test_a_settlement_that_two_replicas_sent_ends_the_job_once(house: House) -> None:
    ref = await house.running()
    await house.one.record(ref)
    house.assets.gate.clear()
    # So slow that it does not come to renew its claim.
    first = asyncio.ensure_future(house.one.claiming_for(timedelta(minutes=5)).send_due())
    await house.claimed()
    house.clock.advance(timedelta(minutes=5))
    second = asyncio.ensure_future(house.other.settlement.send_due())
    await house.claimed()
    house.assets.gate.set()
    await asyncio.gather(first, second)
    assert house.assets.settled == [ref.job_id, ref.job_id]
    assert (await house.one.events(ref.job_id)).count(JobState.SUCCEEDED) == 1


async def test_a_refused_settlement_ends_its_job_and_no_other(house: House) -> None:
    refused, postponed, good = [(await house.running()).job_id for _ in range(3)]
    for ref in list(next(iter(house.one.service.sessions)).held.values()):
        await house.one.record(ref)
    house.assets.answers = {refused: Refused("no such owner"), postponed: Postponed("busy")}
    assert await house.one.settlement.send_due() == 2
    states = {job_id: (await house.one.job(job_id)).state for job_id in (refused, postponed, good)}
    assert states == {refused: JobState.FAILED, postponed: JobState.PUBLISHING, good: JobState.SUCCEEDED}
    failure = (await house.one.job(refused)).failure
    assert failure is not None
    assert failure.message == "The outputs could not be published: no such owner"
    house.assets.answers = {}
    house.clock.advance(timedelta(seconds=1))
    assert await house.one.settlement.send_due() == 1
    assert (await house.one.job(postponed)).state is JobState.SUCCEEDED


async def test_a_settlement_that_breaks_the_whole_call_is_told_by_itself(house: House) -> None:
    refs = [await house.running() for _ in range(4)]
    await asyncio.gather(*(house.one.record(ref) for ref in refs))
    house.assets.breaks = {refs[2].job_id}
    assert await house.one.settlement.send_due() == 4
    states = [(await house.one.job(ref.job_id)).state for ref in refs]
    assert states == [JobState.SUCCEEDED, JobState.SUCCEEDED, JobState.FAILED, JobState.SUCCEEDED]


async def test_a_job_that_changed_is_not_overwritten(house: House) -> None:
    job = await house.one.submit()
    async with house.one.service.storage.write() as tx:
        await tx.jobs.save([(job, replace(job, version=2))])
    with pytest.raises(AtelierError):
        async with house.other.service.storage.write() as tx:
            await tx.jobs.save([(job, replace(job, version=2))])


async def test_a_job_that_came_to_wait_in_another_pool_is_not_leased_to_this_one(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between look and lock, another replica may record the stage that was seen: the job then waits for its next."""
    job = await house.one.submit()
    session = Session(ConnectedWorker("key/chat", "chat's session", ("chat",), (), 1, (), ""))
    session.credits = 1
    house.one.service.sessions.add(session)
    find = Queue.find_candidates

    async def as_it_was(self: Queue, keys: Collection[QueueKey], *, each: int) -> list[Candidate]:
        now = await find(self, {replace(key, worker_type="sdxl") for key in keys}, each=each)
        return [replace(candidate, worker_type="chat") for candidate in now]

    with monkeypatch.context() as patch:
        patch.setattr(Queue, "find_candidates", as_it_was)
        assert await house.one.service.dispatch.lease_waiting() == 0
    assert (await house.one.job(job.job_id)).state is JobState.QUEUED
    house.one.connect("one", free=1)
    assert await house.one.service.dispatch.lease_waiting() == 1
