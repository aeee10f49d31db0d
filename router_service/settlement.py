"""Sends the outbox to the asset service: confirms holds on references, settles jobs that are recorded or over."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from router_service.domain import FINAL, Failure, Job, JobState
from router_service.signals import Signals
from router_service.storage import Storage
from router_service.storage.ledger import OutboxEntry, OutboxKind
from service_kit import crash
from service_kit.errors import AtelierError, ErrorReason, FailedPrecondition, NotFound
from service_kit.telemetry import get_logger

log = get_logger(__name__)

_AT_ONCE = 16
_FIRST_DELAY = timedelta(milliseconds=200)
_LONGEST_DELAY = timedelta(seconds=30)
_POLL_S = 1.0


@dataclass(frozen=True, slots=True)
class Settled:
    """What the asset service answered: the indexes whose assets exist, and those whose bytes are gone."""

    published: tuple[int, ...]
    lost: tuple[int, ...]


class AssetControl(Protocol):
    """What settling needs of the asset service. Both calls may be repeated."""

    async def settle(self, job: Job) -> Settled:
        """Say how a job ended; publish the outputs that it delivered."""

    async def confirm_hold(self, job: Job) -> None:
        """Make the holds on a job's references last until its settlement. Raises NotFound when one is gone."""


class Settlement:
    """Sends what is due, each entry by itself: one that cannot be sent blocks no other."""

    def __init__(self, storage: Storage, assets: AssetControl, signals: Signals) -> None:
        self._storage = storage
        self._assets = assets
        self._signals = signals

    async def run(self) -> None:
        """Send whatever becomes due, until cancelled."""
        while True:
            self._signals.outbox.clear()
            sent = await self._send_due_safely()
            if sent:
                continue
            try:
                await asyncio.wait_for(self._signals.outbox.wait(), _POLL_S)
            except TimeoutError:
                continue

    async def send_due(self) -> int:
        """Send the entries that are due now, once. Returns how many were sent."""
        async with self._storage.read() as tx:
            entries = await tx.ledger.find_due(limit=_AT_ONCE)
        results = await asyncio.gather(*(self._send(entry) for entry in entries))
        return sum(results)

    async def _send_due_safely(self) -> int:
        try:
            return await self.send_due()
        except AtelierError as error:
            log.warning("outbox_delayed", reason=error.reason.value, detail=error.message)
            return 0

    async def _send(self, entry: OutboxEntry) -> bool:
        async with self._storage.read() as tx:
            job = (await tx.jobs.find_many([entry.job_id])).get(entry.job_id)
        try:
            if job is None:
                await self._forget(entry)
            elif entry.kind is OutboxKind.CONFIRM:
                await self._confirm(job)
            else:
                await self._settle(job)
        except AtelierError as error:
            delay = min(_FIRST_DELAY * 2 ** min(entry.tries, 10), _LONGEST_DELAY)
            log.warning(
                "outbox_retry",
                job_id=entry.job_id,
                kind=entry.kind.value,
                tries=entry.tries + 1,
                reason=error.reason.value,
            )
            async with self._storage.write() as tx:
                await tx.ledger.put_off(entry, delay)
            return False
        return True

    async def _settle(self, job: Job) -> None:
        crash.reach("router.settle.sending")
        settled = await self._assets.settle(job)
        crash.reach("router.settle.answered")
        async with self._storage.write() as tx:
            current = await tx.jobs.get(job.job_id)
            await tx.ledger.sent(OutboxKind.SETTLE, job.job_id)
            if current is None or current.state is not JobState.PUBLISHING:
                return
            lost = _lost(current, settled)
            after = current.settled(lost, await tx.now())
            await tx.jobs.save(current, after)
        crash.reach("router.settle.committed")
        log.info("job_ended", job_id=after.job_id, state=after.state.value, delivered=after.delivered)
        self._signals.job_changed(after)

    async def _confirm(self, job: Job) -> None:
        try:
            if job.state not in FINAL:
                await self._assets.confirm_hold(job)
        except (NotFound, FailedPrecondition) as error:
            await self._fail_unreadable(job, error)
            return
        async with self._storage.write() as tx:
            await tx.ledger.sent(OutboxKind.CONFIRM, job.job_id)
            await tx.queue.confirm(job.job_id)
        self._signals.queue_changed()

    async def _fail_unreadable(self, job: Job, error: AtelierError) -> None:
        failure = Failure(
            ErrorReason.REFERENCE_UNREADABLE, f"A reference was removed before the job began: {error.message}"
        )
        async with self._storage.write() as tx:
            await tx.ledger.sent(OutboxKind.CONFIRM, job.job_id)
            current = await tx.jobs.get(job.job_id)
            if current is None or current.state is not JobState.QUEUED:
                return
            after = current.failed(failure, await tx.now())
            await tx.jobs.save(current, after)
            await tx.queue.leave(job.job_id)
            await tx.ledger.send(OutboxKind.SETTLE, job.job_id)
        self._signals.job_changed(after)
        self._signals.outbox_changed()

    async def _forget(self, entry: OutboxEntry) -> None:
        async with self._storage.write() as tx:
            await tx.ledger.sent(entry.kind, entry.job_id)


def _lost(job: Job, settled: Settled) -> Sequence[int]:
    """Return the delivered indexes that the asset service has not published."""
    return [
        output.asset_index for output in job.outputs if output.receipt and output.asset_index not in settled.published
    ]
