"""Every query on what makes repeats harmless: submissions, outcomes, and the outbox to the asset service."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from sqlalchemy import ColumnElement, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from router_service.domain import LeaseRef
from router_service.storage.tables import outbox, outcomes, submissions
from service_kit.database import db_now
from service_kit.identity import Owner


class OutboxKind(StrEnum):
    """What the asset service has to be told."""

    CONFIRM = "confirm"
    SETTLE = "settle"


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """One thing to tell about one job, and how often that was tried."""

    entry_id: int
    kind: OutboxKind
    job_id: str
    tries: int


@dataclass(frozen=True, slots=True)
class Submission:
    """An earlier submission: its digest and the job that it became."""

    digest: str
    job_id: str


class Ledger:
    """Submissions, outcomes and the outbox."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def find_submission(self, owner: Owner, idempotency_key: str) -> Submission | None:
        """Return the submission with this key, or None when it is new."""
        row = (
            await self._connection.execute(
                select(submissions).where(*_of(owner), submissions.c.idempotency_key == idempotency_key)
            )
        ).one_or_none()
        return None if row is None else Submission(row.digest, row.job_id)

    async def find_equal_submission(self, owner: Owner, digest: str, *, within: timedelta) -> Submission | None:
        """Return the newest submission with this digest that is not older than `within`, or None."""
        row = (
            await self._connection.execute(
                select(submissions)
                .where(*_of(owner), submissions.c.digest == digest, submissions.c.created_at > db_now(plus=-within))
                .order_by(submissions.c.created_at.desc(), submissions.c.submission_id.desc())
                .limit(1)
            )
        ).one_or_none()
        return None if row is None else Submission(row.digest, row.job_id)

    async def add_submission(self, owner: Owner, idempotency_key: str | None, digest: str, job_id: str) -> None:
        """Remember a submission. Raises IntegrityError when the key was used meanwhile."""
        await self._connection.execute(
            insert(submissions).values(
                tenant_id=owner.tenant_id,
                owner_id=owner.owner_id,
                idempotency_key=idempotency_key,
                digest=digest,
                job_id=job_id,
                created_at=db_now(),
            )
        )

    async def remove_old_submissions(self, older_than: timedelta) -> int:
        """Forget submissions. Returns how many."""
        result = await self._connection.execute(
            delete(submissions).where(submissions.c.created_at < db_now(plus=-older_than))
        )
        return result.rowcount

    async def has_outcome(self, ref: LeaseRef, completion_id: str) -> bool:
        """Tell whether this very outcome is recorded."""
        row = await self._connection.execute(
            select(outcomes.c.fence).where(
                outcomes.c.job_id == ref.job_id,
                outcomes.c.stage == ref.stage,
                outcomes.c.completion_id == completion_id,
            )
        )
        return row.one_or_none() is not None

    async def add_outcome(self, ref: LeaseRef, completion_id: str, payload: bytes) -> None:
        """Record an outcome as it came."""
        await self._connection.execute(
            insert(outcomes).values(
                job_id=ref.job_id,
                stage=ref.stage,
                completion_id=completion_id,
                fence=ref.fence,
                payload=payload,
                recorded_at=db_now(),
            )
        )

    async def send(self, kind: OutboxKind, job_id: str) -> None:
        """Put something for the asset service into the outbox, due at once."""
        await self._connection.execute(
            insert(outbox).values(kind=kind.value, job_id=job_id, tries=0, due_at=db_now(), created_at=db_now())
        )

    async def find_due(self, *, limit: int) -> list[OutboxEntry]:
        """Return entries that are due, oldest first."""
        rows = await self._connection.execute(
            select(outbox).where(outbox.c.due_at <= db_now()).order_by(outbox.c.due_at, outbox.c.entry_id).limit(limit)
        )
        return [OutboxEntry(row.entry_id, OutboxKind(row.kind), row.job_id, row.tries) for row in rows]

    async def put_off(self, entry: OutboxEntry, delay: timedelta) -> None:
        """Try an entry again later."""
        await self._connection.execute(
            update(outbox)
            .where(outbox.c.entry_id == entry.entry_id)
            .values(tries=entry.tries + 1, due_at=db_now(plus=delay))
        )

    async def sent(self, kind: OutboxKind, job_id: str) -> None:
        """Remove what was told."""
        await self._connection.execute(delete(outbox).where(outbox.c.kind == kind.value, outbox.c.job_id == job_id))


def _of(owner: Owner) -> tuple[ColumnElement[bool], ...]:
    return (submissions.c.tenant_id == owner.tenant_id, submissions.c.owner_id == owner.owner_id)
