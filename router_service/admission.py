"""Takes jobs in: once for each idempotency key, with a hold on their references."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol

from router_service.dispatch import Dispatch
from router_service.domain import Job, Output
from router_service.fairness import Shares
from router_service.generation_domain import Reference
from router_service.limits import JobLimits, Limits, lock_names, parties_of, too_many_queued
from router_service.models import RoutingTable
from router_service.plans import Plan, Request, make_plan
from router_service.signals import Signals
from router_service.storage import Storage, Transaction
from router_service.storage.ledger import OutboxKind, Submission
from router_service.storage.limits import Party
from router_service.storage.queue import Waiting
from service_kit import crash
from service_kit.batching import Batcher
from service_kit.erasure import owner_erased
from service_kit.errors import Aborted, AtelierError, ErrorReason, InvalidArgument, NotFound
from service_kit.identity import Owner
from service_kit.ids import new_id

HOLD_TTL = timedelta(seconds=60)
RETRY_WINDOW = timedelta(minutes=10)


class References(Protocol):
    """What admission needs of the asset service."""

    async def take_hold(
        self, job_id: str, owner: Owner, references: Sequence[Reference], ttl: timedelta
    ) -> tuple[Reference, ...]:
        """Hold the references of a job and say where their bytes lie. Raises NotFound when one is not the owner's."""


@dataclass(frozen=True, slots=True)
class _New:
    """A request that may become a job, or turn out to be a repeat."""

    job_id: str
    request: Request
    plan: Plan
    references: tuple[Reference, ...]
    owner: Owner
    key_id: str
    is_retry: bool

    @property
    def parties(self) -> tuple[Party, ...]:
        """For whom it counts."""
        return parties_of(self.owner, self.key_id)

    @property
    def repeat_of(self) -> tuple[Owner, str] | None:
        """What an earlier submission of the same would be found by: the key, or the digest of a marked retry."""
        if self.request.idempotency_key:
            return self.owner, f"key:{self.request.idempotency_key}"
        return (self.owner, f"digest:{self.request.digest}") if self.is_retry else None


class Admission:
    """Makes jobs of requests."""

    def __init__(
        self,
        storage: Storage,
        references: References,
        signals: Signals,
        shares: Shares,
        limits: Limits,
        dispatch: Dispatch,
    ) -> None:
        self._storage = storage
        self._limits = limits
        self._dispatch = dispatch
        self._references = references
        self._signals = signals
        self._shares = shares
        self._submissions: Batcher[_New, Job] = Batcher("router.admit", self._admit_all, turn=storage.batch_turn)

    async def close(self) -> None:
        """Let what runs end."""
        await self._submissions.close()

    async def admit(
        self, request: Request, table: RoutingTable, owner: Owner, *, key_id: str = "", is_retry: bool = False
    ) -> Job:
        """Accept a request as one job, or answer the job that it became before.

        Args:
            request: within its limits already.
            table: the routing table.
            owner: whose job it is.
            key_id: the key that it is submitted with, and counts for; empty when nobody knows.
            is_retry: the client says that it sent this before; an equal request of the last ten minutes is answered.

        Raises:
            InvalidArgument: a model, a format, or fields that contradict each other.
            NotFound: a reference that does not exist, or is somebody else's; names the field.
            Aborted: the idempotency key was used with another request.
            ResourceExhausted: `too_many_queued_jobs`.
        """
        plan = make_plan(request, table)
        new = _New(new_id(), request, plan, (), owner, key_id, is_retry)
        if request.references:
            # A repeat must not take a hold; without references the look in the transaction is enough.
            async with self._storage.read() as tx:
                known = await self._known_job(tx, new)
            if known is not None:
                return known
            crash.reach("router.hold.sending")
            new = replace(new, references=await self._hold(new.job_id, request.references, owner))
            crash.reach("router.hold.answered")
        return await self._submissions.submit(new)

    async def _admit_all(self, batch: Sequence[_New]) -> list[Job | AtelierError]:
        """Write jobs once for each idempotency key, also when several replicas or one batch have the same."""
        # Where nobody waits a job is leased as it is accepted: one transaction then does what takes two.
        async with self._dispatch.turn(len(batch)) as turn:
            async with self._storage.write() as tx:
                nobody_waits = turn is not None and await tx.queue.is_empty({new.plan.stages[0].pool for new in batch})
                erased = await tx.erased.among({new.owner for new in batch})
                limits = await self._limits.of(tx, {party for new in batch for party in new.parties})
                await _take_turns(tx, batch, limits)
                excess = await self._excess(tx, batch, limits)
                taken = [new for new in batch if new.owner not in erased and new.job_id not in excess]
                firsts = await self._first_of_each(tx, taken)
                now = await tx.now()
                mine = {
                    new.job_id: make_job(new, now, tier=self._shares.of(new.owner).tier)
                    for new in taken
                    if firsts[new.job_id].job_id == new.job_id
                }
                unbounded = not any(limits[party].running for new in taken for party in new.parties)
                grants = (
                    await turn.lease_new(tx, list(mine.values()), now)
                    if turn is not None and nobody_waits and unbounded
                    else []
                )
                await _write(tx, list(mine.values()), {grant.job.job_id: grant.job for _, grant in grants}, now)
                if mine:
                    crash.reach("router.admit.before_commit")
                theirs = {first.job_id for first in firsts.values()} - mine.keys()
                jobs = mine | (await tx.jobs.find(theirs) if theirs else {})
            if mine:
                crash.reach("router.admit.committed")
            self._dispatch.hand_over(grants)
        if not grants:
            self._tell(mine.values())
        return [
            owner_erased() if new.owner in erased else excess.get(new.job_id) or _answer(new, firsts[new.job_id], jobs)
            for new in batch
        ]

    async def _excess(
        self, tx: Transaction, batch: Sequence[_New], limits: Mapping[Party, JobLimits]
    ) -> dict[str, AtelierError]:
        """Return the refusals of what would be one more waiting job than its owner or key may have; a repeat is none.

        Those of the same owner or key are counted one transaction after the other, so that the limit is exact.
        """
        bounded = {party for new in batch for party in new.parties if limits[party].queued}
        batch = [new for new in batch if not bounded.isdisjoint(new.parties)]
        if not batch:
            return {}
        queued = await tx.limits.count_queued(bounded)
        known = await self._earlier(tx, batch)
        refused: dict[str, AtelierError] = {}
        for new in batch:
            name, counted = new.repeat_of, bounded.intersection(new.parties)
            if name is not None and name in known:
                continue
            full = next(
                (party for party in new.parties if party in counted and queued[party] >= limits[party].queued), None
            )
            if full is not None:
                refused[new.job_id] = too_many_queued(full, limits[full].queued)
                continue
            for party in counted:
                queued[party] += 1
            if name is not None:
                known.add(name)
        return refused

    async def _earlier(self, tx: Transaction, batch: Sequence[_New]) -> set[tuple[Owner, str]]:
        """Return by what of a batch an earlier submission is found."""
        keys = {(new.owner, new.request.idempotency_key) for new in batch if new.request.idempotency_key}
        retries = {(new.owner, new.request.digest) for new in batch if new.is_retry and not new.request.idempotency_key}
        by_key = await tx.ledger.find_submissions(keys)
        by_digest = await tx.ledger.find_equal_submissions(retries, within=RETRY_WINDOW)
        return {
            *((owner, f"key:{key}") for owner, key in by_key),
            *((owner, f"digest:{name}") for owner, name in by_digest),
        }

    async def _first_of_each(self, tx: Transaction, batch: Sequence[_New]) -> dict[str, Submission]:
        """Remember the submissions of a batch, but for repeats. Returns for each the first submission of the same."""
        retries = {(new.owner, new.request.digest) for new in batch if new.is_retry and not new.request.idempotency_key}
        equal = await tx.ledger.find_equal_submissions(retries, within=RETRY_WINDOW)
        firsts: dict[str, Submission] = {}
        same = {(owner, f"digest:{digest}"): submission for (owner, digest), submission in equal.items()}
        fresh: list[Submission] = []
        for new in batch:
            submission = _submission(new)
            first = same.get(new.repeat_of) if new.repeat_of is not None else None
            if first is None:
                first = submission
                fresh.append(submission)
                if new.repeat_of is not None:
                    same[new.repeat_of] = submission
            if not new.request.idempotency_key:
                # A retry may come in the batch of what it repeats.
                same[new.owner, f"digest:{new.request.digest}"] = first
            firsts[new.job_id] = first
        written = await tx.ledger.add_submissions(fresh, await tx.now())
        repeats = {
            submission.job_id: (submission.owner, submission.idempotency_key or "")
            for submission in fresh
            if submission.job_id not in written
        }
        earlier = await tx.ledger.find_submissions(set(repeats.values()))
        if len(earlier) < len(set(repeats.values())):
            raise Aborted("A submission with the same key was forgotten at this moment; repeat.")
        return {
            job_id: earlier[repeats[first.job_id]] if first.job_id in repeats else first
            for job_id, first in firsts.items()
        }

    async def _known_job(self, tx: Transaction, new: _New) -> Job | None:
        """Return the job that an earlier submission of the same became, None when there is none."""
        first: Submission | None = None
        if new.request.idempotency_key:
            key = (new.owner, new.request.idempotency_key)
            first = (await tx.ledger.find_submissions([key])).get(key)
        elif new.is_retry:
            equal = (new.owner, new.request.digest)
            first = (await tx.ledger.find_equal_submissions([equal], within=RETRY_WINDOW)).get(equal)
        if first is None:
            return None
        answer = _answer(new, first, await tx.jobs.find([first.job_id]))
        if isinstance(answer, AtelierError):
            raise answer
        return answer

    def _tell(self, jobs: Collection[Job]) -> None:
        # The dispatcher first: watchers can wait, the worker should not.
        if jobs:
            self._signals.queue_changed()
        for job in jobs:
            self._signals.job_changed(job)
        if any(job.references for job in jobs):
            self._signals.holds_changed()

    async def _hold(self, job_id: str, references: Sequence[Reference], owner: Owner) -> tuple[Reference, ...]:
        if not references:
            return ()
        try:
            return await self._references.take_hold(job_id, owner, references, HOLD_TTL)
        except NotFound as error:
            missing = [
                (index, reference.asset_id)
                for index, reference in enumerate(references)
                if reference.asset_id in error.message
            ]
            index, asset_id = missing[0] if missing else (0, references[0].asset_id)
            problem = InvalidArgument.field(f"reference_images[{index}].asset_id", f"there is no asset {asset_id!r}")
            raise NotFound(problem.message, ErrorReason.NOT_FOUND, fields=problem.fields) from error


def make_job(new: _New, now: datetime, *, tier: int) -> Job:
    """Return the new job of a request, waiting for its first stage."""
    request, plan = new.request, new.plan
    outputs = plan.settings.quantity
    return Job(
        job_id=new.job_id,
        owner=new.owner,
        prompt=request.prompt,
        negative_prompt=request.negative_prompt,
        settings=plan.settings,
        enhancement_only=request.enhancement_only,
        warn_on_enhancement_failure=request.warn_on_enhancement_failure,
        references=new.references,
        priority=request.priority,
        created_at=now,
        deadline_at=now + request.deadline(plan.deadline),
        stages=plan.stages,
        outputs=tuple(Output(index) for index in range(outputs)),
        warnings=plan.warnings,
        tier=tier,
        cannot_restart=request.cannot_restart,
        chat=request.chat,
        annotations=request.annotations,
        webhook=request.webhook,
        key_id=new.key_id,
    )


async def _take_turns(tx: Transaction, batch: Sequence[_New], limits: Mapping[Party, JobLimits]) -> None:
    """Let whoever must see what others are about to commit wait for them.

    The jobs of an owner or a key are counted by one transaction at a time, where there is a limit to them. A marked
    retry without an idempotency key waits for the equal submissions that are on their way; those do not wait for each
    other.
    """
    bounded = {party for new in batch for party in new.parties if limits[party].queued}
    keyless = [new for new in batch if not new.request.idempotency_key]
    retries = {_digest_lock(new) for new in keyless if new.is_retry}
    await tx.locks.take(
        [*lock_names(bounded), *retries], beside_others={_digest_lock(new) for new in keyless} - retries
    )


def _digest_lock(new: _New) -> str:
    # Few names: the server has room for so many locks, and a retry that waits for somebody else's does not wait long.
    return f"digest/{new.request.digest[:2]}"


def _submission(new: _New) -> Submission:
    return Submission(new.owner, new.request.idempotency_key, new.request.digest, new.job_id)


def _answer(new: _New, first: Submission, jobs: Mapping[str, Job]) -> Job | AtelierError:
    """Return the job of the first submission, or why a repeat of it cannot be answered."""
    if first.digest != new.request.digest:
        return Aborted(
            f"The idempotency key {new.request.idempotency_key!r} was used for another request: send a new key.",
            ErrorReason.IDEMPOTENCY_KEY_REUSED,
        )
    job = jobs.get(first.job_id)
    if job is None:
        anew = "send a new key" if new.request.idempotency_key else "send it as a new request, not as a retry"
        return NotFound(f"This was submitted before, as the job {first.job_id}, which was removed since: {anew}.")
    return job


async def _write(tx: Transaction, jobs: Sequence[Job], leased: Mapping[str, Job], now: datetime) -> None:
    await tx.jobs.add(jobs, leased)
    waiting = [job for job in jobs if job.job_id not in leased]
    await tx.queue.enter([Waiting(job, confirmed=not job.references) for job in waiting], now)
    await tx.ledger.send(OutboxKind.CONFIRM, [job.job_id for job in jobs if job.references], now)
