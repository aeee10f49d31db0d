"""Sends the outbox to the asset service: confirms holds on references, settles jobs that are recorded or over."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Protocol, TypeVar

from router_service.claimed import CLAIM_FOR, Claimed
from router_service.domain import FINAL, Failure, Job, JobState
from router_service.signals import Signals
from router_service.storage import Storage, Transaction
from router_service.storage.ledger import OutboxEntry, OutboxKind
from service_kit import crash
from service_kit.errors import (
    AlreadyExists,
    AtelierError,
    ErrorReason,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OutOfRange,
)
from service_kit.finishing import all_to_their_ends
from service_kit.tasks import beside_each_other, end, woken
from service_kit.telemetry import get_logger

log = get_logger(__name__)
_T = TypeVar("_T")

_AT_ONCE = {OutboxKind.SETTLE: 256, OutboxKind.CONFIRM: 32}
_FIRST_DELAY = timedelta(milliseconds=200)
_LONGEST_DELAY = timedelta(seconds=30)
_POLL_S = 1.0
# What a repeat of the same call would meet again.
_PERMANENT = (InvalidArgument, NotFound, FailedPrecondition, AlreadyExists, OutOfRange)


@dataclass(frozen=True, slots=True)
class Settled:
    """What the asset service answered: the indexes whose assets exist, and those whose bytes are gone."""

    published: tuple[int, ...]
    lost: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """The settlement can never be carried out: the job is settled with nothing published."""

    message: str


@dataclass(frozen=True, slots=True)
class Postponed:
    """Nothing was done; it is to be sent again."""

    message: str


Answer = Settled | Refused | Postponed


class AssetControl(Protocol):
    """What settling needs of the asset service. Both calls may be repeated."""

    async def settle(self, jobs: Sequence[Job]) -> Sequence[Answer]:
        """Say how jobs ended; publish the outputs that they delivered. Returns an answer for each, in order."""

    async def confirm_hold(self, job: Job) -> None:
        """Make the holds on a job's references last until its settlement. Raises NotFound when one is gone."""


class Settlement:
    """Sends what is due. Any number of replicas may: each claims what it sends, and repeats are harmless."""

    def __init__(
        self,
        storage: Storage,
        assets: AssetControl,
        signals: Signals,
        claimed: Claimed,
        claim_for: timedelta = CLAIM_FOR,
    ) -> None:
        self._storage = storage
        self._assets = assets
        self._signals = signals
        self._claimed = claimed
        self._claim_for = claim_for

    async def run(self) -> None:
        """Send whatever becomes due or was claimed here, until cancelled. Neither kind waits for the other."""
        await beside_each_other(
            partial(self._keep_sending, OutboxKind.SETTLE, self._signals.outbox),
            partial(self._keep_sending, OutboxKind.CONFIRM, self._signals.holds),
            self._keep_sending_claimed,
        )

    async def send_due(self) -> int:
        """Send the entries that are due now, once. Returns how many were sent."""
        return sum([await self._send_due(kind) for kind in OutboxKind])

    async def send_claimed(self) -> int:
        """Send what this replica has just recorded and claimed, once. Returns how many were sent."""
        jobs = {job.job_id: job for job in self._claimed.take(most=_AT_ONCE[OutboxKind.SETTLE])}
        if not jobs:
            return 0
        return await self._settle({job_id: OutboxEntry(OutboxKind.SETTLE, job_id, 0) for job_id in jobs}, jobs)

    async def _keep_sending(self, kind: OutboxKind, wake: asyncio.Event) -> None:
        while True:
            wake.clear()
            try:
                if await self._send_due(kind) >= _AT_ONCE[kind]:
                    continue
            except AtelierError as error:
                log.warning("outbox_delayed", kind=kind.value, reason=error.reason.value, detail=error.message)
            await woken(wake, _POLL_S)

    async def _keep_sending_claimed(self) -> None:
        """Send what this replica has just recorded, and claimed with it."""
        self._claimed.open()
        try:
            while True:
                await self._claimed.wait()
                try:
                    await self.send_claimed()
                except AtelierError as error:
                    # They are due again when the claim lapses.
                    log.warning("outbox_delayed", kind="settle", reason=error.reason.value, detail=error.message)
        finally:
            self._claimed.close()

    async def _send_due(self, kind: OutboxKind) -> int:
        async with self._storage.write() as tx:
            entries = await tx.ledger.claim_due(kind, limit=_AT_ONCE[kind], claim_for=self._claim_for)
            jobs = await tx.jobs.find([entry.job_id for entry in entries]) if entries else {}
            # Removed with its job in a way that nobody foresaw: there is nobody to tell about.
            await tx.ledger.sent(kind, [entry.job_id for entry in entries if entry.job_id not in jobs])
            if entries:
                crash.reach("router.outbox.before_commit")
        if not entries:
            return 0
        crash.reach("router.outbox.claimed")
        known = {entry.job_id: entry for entry in entries if entry.job_id in jobs}
        told = await (self._settle(known, jobs) if kind is OutboxKind.SETTLE else self._confirm(known, jobs))
        return told + len(entries) - len(known)

    async def _while_claimed(self, entries: Mapping[str, OutboxEntry], answers: Coroutine[Any, Any, _T]) -> _T:
        """Wait for answers and renew the claim at each third of it. If it lapses, a harmless repeat follows."""
        asking = asyncio.create_task(answers)
        try:
            while not (await asyncio.wait([asking], timeout=self._claim_for.total_seconds() / 3))[0]:
                await self._renew(entries.values())
            return asking.result()
        finally:
            await end([asking])

    async def _renew(self, entries: Collection[OutboxEntry]) -> None:
        try:
            async with self._storage.write() as tx:
                await tx.ledger.renew_claim(entries, claim_for=self._claim_for)
        except AtelierError as error:
            log.warning("outbox_claim_not_renewed", reason=error.reason.value, detail=error.message)

    # --- settlements ------------------------------------------------------------------------------------------------

    async def _settle(self, entries: Mapping[str, OutboxEntry], jobs: Mapping[str, Job]) -> int:
        answers = await self._while_claimed(entries, self._ask(list(jobs.values())))
        crash.reach("router.settle.answered")
        postponed = {job_id: answer for job_id, answer in answers.items() if isinstance(answer, Postponed)}
        for job_id, answer in postponed.items():
            _log_retry(entries[job_id], answer.message)
        told = sorted(answers.keys() - postponed.keys())
        async with self._storage.write() as tx:
            current = await tx.jobs.lock(told)
            publishing = [job for job in current.values() if job.state is JobState.PUBLISHING]
            now = await tx.now()
            ended = [(job, _ended(job, answers[job.job_id], now)) for job in publishing]
            await tx.jobs.save(ended)
            await tx.ledger.sent(OutboxKind.SETTLE, told)
            await tx.ledger.put_off([(entries[job_id], _delay(entries[job_id])) for job_id in postponed], now)
            crash.reach("router.settle.before_commit")
        crash.reach("router.settle.committed")
        for _, job in ended:
            log.debug("job_ended", job_id=job.job_id, state=job.state.value, delivered=job.delivered)
            self._signals.job_changed(job)
        return len(told)

    async def _ask(self, jobs: Sequence[Job]) -> dict[str, Answer]:
        """Tell how jobs ended. One that makes the whole call fail for good is told by itself."""
        crash.reach("router.settle.sending")
        try:
            answers = await self._assets.settle(jobs)
        except _PERMANENT as error:
            if len(jobs) == 1:
                return {jobs[0].job_id: Refused(error.message)}
            log.warning("settlements_taken_apart", jobs=len(jobs), reason=error.reason.value, detail=error.message)
            each = [await self._ask([job]) for job in jobs]
            return {job_id: answer for one in each for job_id, answer in one.items()}
        except AtelierError as error:
            return {job.job_id: Postponed(error.message) for job in jobs}
        return {job.job_id: answer for job, answer in zip(jobs, answers, strict=True)}

    # --- holds ------------------------------------------------------------------------------------------------------

    async def _confirm(self, entries: Mapping[str, OutboxEntry], jobs: Mapping[str, Job]) -> int:
        crash.reach("router.confirm.sending")
        results = await self._while_claimed(entries, all_to_their_ends(map(self._hold, jobs.values())))
        crash.reach("router.confirm.answered")
        errors = {job_id: error for job_id, error in zip(jobs, results, strict=True) if error is not None}
        gone = {job_id: error for job_id, error in errors.items() if isinstance(error, NotFound | FailedPrecondition)}
        for job_id in errors.keys() - gone.keys():
            _log_retry(entries[job_id], errors[job_id].message)
        told = sorted(jobs.keys() - errors.keys() | gone.keys())
        async with self._storage.write() as tx:
            current = await tx.jobs.lock(told)
            now = await tx.now()
            failed = await self._fail_unreadable(tx, [job for job in current.values() if job.job_id in gone], gone)
            await tx.queue.confirm(told)
            await tx.ledger.sent(OutboxKind.CONFIRM, told)
            again = [entries[job_id] for job_id in errors.keys() - gone.keys()]
            await tx.ledger.put_off([(entry, _delay(entry)) for entry in again], now)
            crash.reach("router.confirm.before_commit")
        crash.reach("router.confirm.committed")
        for job in failed:
            self._signals.job_changed(job)
        self._signals.queue_changed()
        if failed:
            self._signals.outbox_changed()
        return len(told)

    async def _hold(self, job: Job) -> AtelierError | None:
        try:
            if job.state not in FINAL:
                await self._assets.confirm_hold(job)
        except AtelierError as error:
            return error
        return None

    async def _fail_unreadable(
        self, tx: Transaction, jobs: Collection[Job], errors: Mapping[str, AtelierError]
    ) -> list[Job]:
        now = await tx.now()
        ended = []
        for job in jobs:
            if job.state is JobState.QUEUED:
                message = f"A reference was removed before the job began: {errors[job.job_id].message}"
                ended.append((job, job.failed(Failure(ErrorReason.REFERENCE_UNREADABLE, message), now)))
        job_ids = [job.job_id for job, _ in ended]
        await tx.jobs.save(ended)
        await tx.queue.leave(job_ids)
        await tx.ledger.settle([after for _, after in ended], now)
        return [after for _, after in ended]


def _ended(job: Job, answer: Answer, now: datetime) -> Job:
    if not isinstance(answer, Settled):
        log.error("settlement_refused", job_id=job.job_id, detail=answer.message)
        return job.refused(answer.message, now)
    lost = [
        output.asset_index for output in job.outputs if output.receipt and output.asset_index not in answer.published
    ]
    return job.settled(lost, now)


def _delay(entry: OutboxEntry) -> timedelta:
    delay: timedelta = _FIRST_DELAY * 2 ** min(entry.tries, 10)
    return min(delay, _LONGEST_DELAY)


def _log_retry(entry: OutboxEntry, detail: str) -> None:
    log.warning("outbox_retry", job_id=entry.job_id, kind=entry.kind.value, tries=entry.tries + 1, detail=detail)
