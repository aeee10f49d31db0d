"""One leasing round: the free slots of this replica's sessions are filled with who is next, in one transaction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from router_service.domain import Job, JobState
from router_service.fairness import Shares, rank
from router_service.limits import Limits, lock_names, parties_of
from router_service.sessions import Grant, Session, Sessions
from router_service.storage import Storage, Transaction
from router_service.storage.limits import Party
from router_service.storage.queue import Candidate, QueueKey
from service_kit import crash
from service_kit.capabilities import Capabilities, LeaseClaims, ReferenceGrant
from service_kit.identity import Owner

# How exactly it is remembered when an owner was served that has the pool for itself.
_SERVED_WITHIN = timedelta(seconds=1)
_MOST_REMEMBERED = 10_000
# A look sees at least so many stages of each owner, and altogether a few times as many as there are slots.
_LEAST_EACH = 8
_LOOK = 4


@dataclass(frozen=True, slots=True)
class LeaseRules:
    """How leases live. `max_output_bytes` is the largest output that a worker may upload."""

    ttl: timedelta
    max_attempts: int
    max_leases: int
    max_output_bytes: int


@dataclass(frozen=True, slots=True)
class Round:
    """What a round has leased, and whether another one would find more at once."""

    grants: tuple[tuple[Session, Grant], ...]
    goes_on: bool


@dataclass(frozen=True, slots=True)
class _Look:
    """Which session takes which stage, of how many that were seen.

    `is_whole`: nothing else waited. `is_cut`: another look would show more that may be leased.
    """

    chosen: tuple[tuple[Session, Candidate], ...]
    seen: int
    is_whole: bool
    is_cut: bool


_NOTHING = Round((), goes_on=False)


class Rounds:
    """Runs leasing rounds; one at a time in a replica, and one at a time in a pool."""

    def __init__(
        self,
        storage: Storage,
        sessions: Sessions,
        capabilities: Capabilities,
        rules: LeaseRules,
        shares: Shares,
        limits: Limits,
    ) -> None:
        self._storage = storage
        self._sessions = sessions
        self._capabilities = capabilities
        self._rules = rules
        self._shares = shares
        self._limits = limits
        self._owners = 1
        self._compete = False
        self._served: dict[tuple[str, Owner], datetime] = {}
        # For what the last look was that has left nothing behind.
        self._emptied: frozenset[QueueKey] = frozenset()

    async def run(self) -> Round:
        """Fill the free slots of this replica's sessions."""
        self._emptied = frozenset()
        takers = [session for session in self._sessions if session.free > 0]
        if not takers:
            return _NOTHING
        async with self._storage.write() as tx:
            look = await self._choose(tx, takers)
            grants = await self._lease(tx, look.chosen)
            if grants:
                crash.reach("router.lease.before_commit")
        if look.is_whole and len(grants) == look.seen:
            self._emptied = frozenset(key for session in takers for key in _keys(session))
        return Round(tuple(grants), goes_on=look.is_cut and bool(grants))

    def has_emptied(self, session: Session) -> bool:
        """Tell whether the last round has leased all that waited of what a session takes."""
        return self._emptied.issuperset(_keys(session))

    def takes_new(self, jobs: int) -> bool:
        """Tell whether so many jobs that are new may be leased at once: there is room, and nobody's is bounded."""
        return not self._shares.is_bounded and sum(session.free for session in self._sessions) >= jobs

    async def lease_new(self, tx: Transaction, jobs: Sequence[Job], now: datetime) -> list[tuple[Session, Grant]]:
        """Lease jobs in the transaction that accepts them, so that they never wait; all of them or none.

        Nothing waits that would come before them. The caller writes the jobs as they are in the grants.
        """
        takers = [session for session in self._sessions if session.free > 0]
        free = {session.epoch: session.free for session in takers}
        leased: list[tuple[Session, Job]] = []
        for job in jobs:
            session = _best_session(takers, free, job.current.pool, job.runs_model)
            if session is None or job.references:
                return []
            free[session.epoch] -= 1
            leased.append((session, job.leased(session.worker.holder, now)))
        after = [job for _, job in leased]
        leases = await tx.leases.add([(job, session.epoch) for session, job in leased], now, acknowledged=False)
        await self._note_served(tx, after, now)
        return [(session, Grant(leases[job.job_id], job, self._token(job))) for session, job in leased]

    async def _choose(self, tx: Transaction, takers: Sequence[Session]) -> _Look:
        """Lock the pools and say who is next."""
        free = {session.epoch: session.free for session in takers}
        keys = {key for session in takers for key in _keys(session)}
        worker_types = {key.worker_type for key in keys}
        slots = sum(free.values())
        each = min(slots, max(_LEAST_EACH, _LOOK * slots // self._owners))
        await tx.queue.lock_pools(worker_types)
        candidates = await tx.queue.find_candidates(keys, each=each)
        owners = {candidate.owner for candidate in candidates}
        self._owners = max(len(owners), 1)
        # Where everything is leased at once, nobody is before another.
        takes_all = len({tuple(_keys(session)) for session in takers}) == 1
        self._compete = len(owners) > 1 and not (takes_all and len(candidates) < each)
        counts = self._compete or (bool(owners) and self._shares.is_bounded)
        running = await tx.queue.count_running(worker_types) if counts else {}
        last_served = await tx.queue.last_served(worker_types, owners) if self._compete else {}
        room = await self._room(tx, candidates)
        ranking = rank(candidates, running, shares=self._shares, last_served=last_served, each=each, room=room)
        chosen = []
        for candidate in ranking.candidates:
            session = _best_session(takers, free, candidate.worker_type, candidate.model)
            if session is not None:
                free[session.epoch] -= 1
                chosen.append((session, candidate))
                if len(chosen) == slots:
                    break
        is_whole = len(candidates) < each
        return _Look(tuple(chosen), seen=len(candidates), is_whole=is_whole, is_cut=ranking.is_cut)

    async def _room(self, tx: Transaction, candidates: Sequence[Candidate]) -> dict[Party, int]:
        """Return how many more jobs may run of owners and keys that have a limit; nobody else leases any meanwhile."""
        parties = {party for each in candidates for party in parties_of(each.owner, each.key_id)}
        limits = await self._limits.of(tx, parties)
        bounded = [party for party in parties if limits[party].running]
        if not bounded:
            return {}
        await tx.locks.take(lock_names(bounded))
        running = await tx.limits.count_running(bounded)
        return {party: limits[party].running - running[party] for party in bounded}

    async def _lease(self, tx: Transaction, chosen: Sequence[tuple[Session, Candidate]]) -> list[tuple[Session, Grant]]:
        """Lease what was chosen, but for what somebody else has locked or changed meanwhile."""
        jobs = await tx.jobs.lock((candidate.job_id for _, candidate in chosen), skip_locked=True)
        taken = await tx.queue.take([candidate.job_id for _, candidate in chosen if _is_meant(jobs, candidate)])
        if not taken:
            return []
        now = await tx.now()
        transitions, sessions = [], []
        for session, candidate in chosen:
            before = jobs.get(candidate.job_id)
            if before is not None and candidate.job_id in taken and before.state is JobState.QUEUED:
                transitions.append((before, before.leased(session.worker.holder, now)))
                sessions.append(session)
        after = [job for _, job in transitions]
        await tx.jobs.save(transitions)
        epochs = [(job, session.epoch) for job, session in zip(after, sessions, strict=True)]
        leases = await tx.leases.add(epochs, now, acknowledged=False)
        await self._note_served(tx, after, now)
        return [
            (session, Grant(leases[job.job_id], job, self._token(job)))
            for job, session in zip(after, sessions, strict=True)
        ]

    async def _note_served(self, tx: Transaction, jobs: Sequence[Job], now: datetime) -> None:
        served = {(job.current.pool, job.owner) for job in jobs}
        if not self._compete:
            # It is enough to know it roughly.
            served = {key for key in served if key not in self._served or now - self._served[key] > _SERVED_WITHIN}
        if not served:
            return
        await tx.queue.note_served([(worker_type, owner, now) for worker_type, owner in served])
        if len(self._served) > _MOST_REMEMBERED:
            self._served.clear()
        self._served |= dict.fromkeys(served, now)

    def _token(self, job: Job) -> str:
        references = tuple(
            ReferenceGrant(
                bucket=reference.bucket,
                key=reference.key,
                generation=reference.generation,
                asset_id=reference.asset_id,
            )
            for reference in job.references
        )
        return self._capabilities.sign_lease(
            LeaseClaims(
                job_id=job.job_id,
                stage=job.stage,
                fence=job.fence,
                owner=job.owner,
                max_outputs=len(job.outputs),
                max_bytes=self._rules.max_output_bytes,
                formats=(job.settings.format.value,) if job.settings.format else (),
                references=references,
                expires_at=job.deadline_at + self._rules.ttl,
            )
        )


def _keys(session: Session) -> Iterator[QueueKey]:
    """Give what a session takes from the queue."""
    worker = session.worker
    return (QueueKey(pool, worker.models, worker.enhances) for pool in worker.pools)


def _is_meant(jobs: Mapping[str, Job], candidate: Candidate) -> bool:
    """Tell whether what was chosen is what waits: a job may have come to wait in another pool before we locked it."""
    job = jobs.get(candidate.job_id)
    return job is not None and (job.state is not JobState.QUEUED or job.current.pool == candidate.worker_type)


def _best_session(takers: Sequence[Session], free: Mapping[str, int], pool: str, model: str) -> Session | None:
    """Return the session with the most free slots that takes the stage, or None."""
    best: Session | None = None
    for session in takers:
        most = free[best.epoch] if best is not None else 0
        if free[session.epoch] > most and session.worker.takes(pool, model):
            best = session
    return best
