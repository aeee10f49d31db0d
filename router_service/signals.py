"""Wake-ups inside one process: a job has changed, something waits in the queue, something is due in the outbox.

They carry nothing. Whoever is woken reads the database, and would find it at its next round anyway.
"""

from __future__ import annotations

import asyncio

from router_service.domain import Job
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


class Signals:
    """Who is woken by what."""

    def __init__(self) -> None:
        self.watchers = WakeUps()
        self.queue = asyncio.Event()
        self.outbox = asyncio.Event()

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
