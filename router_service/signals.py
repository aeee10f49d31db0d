"""Wake-ups inside one process: a job has changed, something waits in the queue, something is due in the outbox.

They carry nothing. Whoever is woken reads the database, and would find it at its next round anyway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from router_service.domain import Job, LeaseRef
from service_kit.events import WakeUps
from service_kit.identity import Owner


def job_topic(job_id: str) -> tuple[str, ...]:
    """Return the topic of one job's watchers."""
    return ("job", job_id)


def reports_topic(topic: tuple[str, ...]) -> tuple[str, ...]:
    """Return the topic of what is reported, not stored, about a job or an owner's jobs."""
    return ("reports", *topic)


def owner_topic(owner: Owner) -> tuple[str, ...]:
    """Return the topic of the watchers of an owner's jobs."""
    return ("owner", owner.tenant_id, owner.owner_id)


LeaseEnded = Callable[[LeaseRef, bool], None]


class Signals:
    """Who is woken by what."""

    def __init__(self) -> None:
        self.watchers = WakeUps()
        self.queue = asyncio.Event()
        self.outbox = asyncio.Event()
        self._when_lease_ended: list[LeaseEnded] = []

    def on_lease_ended(self, handler: LeaseEnded) -> None:
        """Call a handler with each lease that ends under its worker, and whether its job was cancelled."""
        self._when_lease_ended.append(handler)

    def lease_ended(self, ref: LeaseRef, *, cancelled: bool) -> None:
        """Tell whoever has the worker that a lease is over: its job was cancelled, or the worker has lost it."""
        for handler in self._when_lease_ended:
            handler(ref, cancelled)

    def job_changed(self, job: Job) -> None:
        """Wake those who follow the job or its owner."""
        self.watchers.notify(job_topic(job.job_id))
        self.watchers.notify(owner_topic(job.owner))

    def queue_changed(self) -> None:
        """Wake the dispatcher."""
        self.queue.set()

    def outbox_changed(self) -> None:
        """Wake the sender of settlements."""
        self.outbox.set()
