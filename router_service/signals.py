"""What wakes whom, here and on the other replicas: a job changed, something waits, a lease ended under its worker.

Signals carry no truth. Whoever is woken reads the database, and would find it at its next round anyway.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

from router_service.domain import Job, LeaseRef
from service_kit.events import WakeUps
from service_kit.events.exchange import Exchange, Hub, LocalExchange
from service_kit.events.followers import Changes, owner_topic, subject_topic

_QUEUE = "queue"
_LEASE_ENDED = "lease_ended"

job_topic = subject_topic
LeaseEnded = Callable[[LeaseRef, bool], None]


def reports_topic(topic: tuple[str, ...]) -> tuple[str, ...]:
    """Return the topic of what is reported, not stored, about a job or an owner's jobs."""
    return ("reports", *topic)


class Signals:
    """Who is woken by what."""

    def __init__(self, exchange: Exchange | None = None) -> None:
        """Tell the other replicas through an exchange; without one there are none."""
        self.watchers = WakeUps()
        self.queue = asyncio.Event()
        self.outbox = asyncio.Event()
        self.holds = asyncio.Event()
        self.exchange = exchange or LocalExchange(Hub())
        self._changes = Changes(self.watchers, self.exchange)
        self._when_lease_ended: list[LeaseEnded] = []
        self.queue_version = 0
        self.exchange.listen(_QUEUE, self._hear_queue_changed)
        self.exchange.listen(_LEASE_ENDED, self._hear_lease_ended)

    def job_changed(self, job: Job) -> None:
        """Wake those who follow the job or its owner."""
        self._changes.tell(job.owner, job.job_id)

    def queue_changed(self) -> None:
        """Wake the dispatchers of all replicas: a stage waits that any of them may lease."""
        self._hear_queue_changed(b"")
        self.exchange.publish(_QUEUE, key=_QUEUE)

    def slots_changed(self) -> None:
        """Wake the dispatcher of this replica: a worker that is connected here takes more."""
        self.queue.set()

    def outbox_changed(self) -> None:
        """Wake this replica's sender of settlements. Another one would only be in its way."""
        self.outbox.set()

    def holds_changed(self) -> None:
        """Wake this replica's confirmer of holds."""
        self.holds.set()

    def on_lease_ended(self, handler: LeaseEnded) -> None:
        """Call a handler with each lease that ends under its worker, and whether its job was cancelled."""
        self._when_lease_ended.append(handler)

    def lease_ended(self, ref: LeaseRef, *, cancelled: bool) -> None:
        """Tell whoever has the worker that a lease is over: its job was cancelled, or the worker has lost it."""
        self._tell_lease_ended(ref, cancelled)
        self.exchange.publish(_LEASE_ENDED, json.dumps([ref.job_id, ref.stage, ref.fence, cancelled]).encode())

    def _hear_queue_changed(self, _payload: bytes) -> None:
        # Counted: a leasing round finds out whether anything came while it looked.
        self.queue_version += 1
        self.queue.set()

    def _hear_lease_ended(self, payload: bytes) -> None:
        job_id, stage, fence, cancelled = json.loads(payload)
        self._tell_lease_ended(LeaseRef(job_id, stage, fence), cancelled)

    def _tell_lease_ended(self, ref: LeaseRef, cancelled: bool) -> None:
        for handler in self._when_lease_ended:
            handler(ref, cancelled)


__all__ = ["Signals", "job_topic", "owner_topic", "reports_topic"]
