"""What the services do by themselves, what time does to them, and bad luck."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from router_service.domain import Job, JobState
from service_kit.errors import AtelierError, ErrorReason
from tests.model.house import ACK_TIMEOUT, LEASE_TTL, MAX_ATTEMPTS, MAX_LEASES, Running
from tests.model.invariants import State
from tests.model.world import OPEN, TICK, Work, World, at_once, deed, ref_of

_FAULTS = ("lost", "unanswered", "repeated", "late")
_PAUSES_S = (0.3, 0.3, 2, 2, 6, 6, 20, 31, 31, 70, 400, 1000)


class Services(World):
    """Deeds of routers and asset services."""

    @deed(4)
    def serve(self, a: int, b: int, c: int) -> Work:
        """A router does what it does all the time."""
        return self._serve(self.router(a))

    async def _serve(self, router: Running) -> None:
        await self.settle_due([router])
        self.state = await self.look()
        await self.lease_round(router)

    @deed(4)
    def lease_waiting(self, a: int, b: int, c: int) -> Work:
        return self.lease_round(self.router(a))

    async def lease_round(self, router: Running) -> None:
        """Fill free slots, and judge who was chosen."""
        before, now = self.state, self.house.clock.now()
        await router.do(lambda service: service.dispatch.lease_waiting())
        await self.hear()
        after = await self.look()
        fresh = [job_id for job_id in after.leases if job_id not in before.leases]
        for job_id in fresh:
            assert before.queue[job_id].available_at <= now, "a stage waits for its references, and out its pause"
            self.renewed[ref_of(after.jobs[job_id])] = now
        left = [row for row in after.queue.values() if row.ready]
        free = sum(session.free for session in router.service.sessions)
        assert not left or not free, "a free slot takes what waits"
        for row in left:
            for taken in (before.queue[job_id] for job_id in fresh):
                if (taken.owner_id, taken.tier) == (row.owner_id, row.tier):
                    assert (taken.precedence, taken.order_key) < (row.precedence, row.order_key), "first in, first out"

    @deed(2)
    def reap(self, a: int, b: int, c: int) -> Work:
        """Look for what has expired, often after a silence."""
        if c > 5:
            self.house.clock.advance(LEASE_TTL + TICK)
        return self._reap([self.router(a)] if b else [self.router(0), self.router(1)])

    async def _reap(self, routers: Sequence[Running]) -> None:
        before, now = self.state, self.house.clock.now()
        age = max(self.house.clock.monotonic() - router.started_at for router in routers)
        await at_once(router.do(lambda service: service.reaper.round()) for router in routers)
        after = await self.look()
        for job_id, row in before.leases.items():
            job, then = before.jobs[job_id], after.jobs[job_id]
            limit = LEASE_TTL if row.acknowledged else ACK_TIMEOUT
            # After a start it may be the router that was away, not the worker.
            expired = age >= LEASE_TTL.total_seconds() and self.renewed[ref_of(job)] + limit < now
            overdue = job.deadline_at < now
            assert (then == job) == (not expired and not overdue), "a lease ends when it was not renewed for its time"
            if expired and not overdue:
                self._check_taken_back(job, then, began=row.acknowledged)
        self._check_deadlines(before, after)

    def _check_taken_back(self, before: Job, after: Job, *, began: bool) -> None:
        self.seen["taken back"] += 1
        attempt = before.current.attempt - (not began)
        if attempt >= MAX_ATTEMPTS or before.leases >= MAX_LEASES:
            self.seen["spent"] += 1
            assert after.state is JobState.FAILED or after.stage > before.stage
            assert not after.failure or after.failure.reason is ErrorReason.ATTEMPTS_EXHAUSTED
        else:
            assert (after.state, after.fence) == (JobState.QUEUED, before.fence)
            assert after.current.attempt == attempt, "a lease that was not acknowledged burns no attempt"

    def _check_deadlines(self, before: State, after: State) -> None:
        for job_id, job in before.jobs.items():
            if job.state in OPEN and job.deadline_at < self.house.clock.now():
                self.seen["overdue"] += 1
                assert after.jobs[job_id].state is JobState.FAILED, "every job has a deadline"

    @deed(4)
    def settle(self, a: int, b: int, c: int) -> Work:
        return self._settle([self.router(a)] if b > 2 else [self.router(0), self.router(1)], recorded=c > 2)

    async def _settle(self, routers: Sequence[Running], *, recorded: bool) -> None:
        """Send what is due, and before it what the routers have recorded themselves; they claim it from now on."""
        if recorded:
            await at_once(router.do(_send_claimed) for router in routers)
        await self.settle_due(routers)

    async def settle_due(self, routers: Sequence[Running]) -> None:
        """Send what is due in the outbox."""
        await at_once(router.do(lambda service: service.settlement.send_due()) for router in routers)

    @deed()
    def sweep(self, a: int, b: int, c: int) -> Work:
        return self.assets(a).do(lambda each: each.expiry.look())

    @deed()
    def arrive_late(self, a: int, b: int, c: int) -> Work | None:
        """A call arrives whose caller has long given up."""
        return self.deliver_late(a) if self.house.hop.late else None

    async def deliver_late(self, pick: int) -> None:
        """Let one late call arrive, whatever is answered."""
        try:
            await self.house.hop.deliver_late(pick)
        except AtelierError:
            self.seen["late and refused"] += 1

    # --- time and bad luck ------------------------------------------------------------------------------------------

    @deed(3)
    def wait(self, a: int, b: int, c: int) -> None:
        self.house.clock.advance(timedelta(seconds=_PAUSES_S[a]))

    @deed(2)
    def trouble_on_the_way(self, a: int, b: int, c: int) -> None:
        """The next call from a router to the asset service meets this."""
        self.house.hop.faults.append(_FAULTS[a % len(_FAULTS)])

    def cut_the_power(self, which: int, points: int) -> str:
        """A process will die at one of its next points. Returns what will happen."""
        running = [*self.house.routers, *self.house.asset_services]
        chosen = running[which % len(running)].process
        chosen.fuse = 1 + points
        return f"{chosen.name} dies at its point number {1 + points}"


async def _send_claimed(service: Any) -> None:
    service.claimed.open()
    await service.settlement.send_claimed()
