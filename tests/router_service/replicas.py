"""Two routers beside one database of PostgreSQL, for tests of what they do at once. SQLite hides such races."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from sqlalchemy import text

from router_service.__main__ import Service
from router_service.domain import Job, JobState, LeaseRef
from router_service.generation_domain import Format
from router_service.plans import Request
from router_service.recording import Outcome, OutputReport
from router_service.registry_domain import ConnectedWorker
from router_service.sessions import Session
from router_service.settlement import Answer, Settled, Settlement
from router_service.storage import Storage
from service_kit.capabilities import Receipt
from service_kit.clock import ManualClock
from service_kit.database import Database
from service_kit.errors import InvalidArgument
from service_kit.identity import Owner

ANN = Owner("default", "ann")


TTL = timedelta(seconds=30)


WAIT_S = 30.0


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
        self.settlement = Settlement(service.storage, assets, service.signals, service.claimed)

    def claiming_for(self, claim_for: timedelta) -> Settlement:
        """Return what sends the outbox and claims for another time than usual."""
        service = self.service
        return Settlement(service.storage, self._assets, service.signals, service.claimed, claim_for)

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
            self.one.service.dispatch.acknowledge(session, ref)
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
