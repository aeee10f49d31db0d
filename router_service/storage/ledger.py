"""Every query on what makes repeats harmless: submissions, outcomes, and the outbox to the asset service."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any

from sqlalchemy import bindparam, delete, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from router_service.domain import Job, LeaseRef
from router_service.storage.tables import outbox, outcomes, submissions
from service_kit.bulk import among, delete_rows, insert_new_rows, insert_rows, update_rows
from service_kit.database import db_now
from service_kit.identity import Owner

_OUTCOMES = select(outcomes.c.job_id, outcomes.c.stage, outcomes.c.completion_id).where(
    among(outcomes.c.job_id, "job_ids")
)
_MINE = ("kind", "job_id")
# No entry is put off for longer, so that one that is due later than this was written before the clock was set back.
_LONGEST_WAIT = timedelta(hours=1)


class OutboxKind(StrEnum):
    """What the asset service has to be told."""

    CONFIRM = "confirm"
    SETTLE = "settle"


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """One thing to tell about one job, and how often that was tried."""

    kind: OutboxKind
    job_id: str
    tries: int


@dataclass(frozen=True, slots=True)
class Submission:
    """A submission, earlier or new: its digest and the job that it became."""

    owner: Owner
    idempotency_key: str | None
    digest: str
    job_id: str


class Ledger:
    """Submissions, outcomes and the outbox."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    # --- submissions ------------------------------------------------------------------------------------------------

    async def add_submissions(self, new: Sequence[Submission], now: datetime) -> set[str]:
        """Remember submissions, but for those whose key was used before, by whatever replica.

        Returns:
            The jobs of those that were remembered.
        """
        # What has no key is like nothing else: nobody has to say whether it was new.
        without = [submission for submission in new if submission.idempotency_key is None]
        await insert_rows(self._connection, submissions, [_submission_row(each, now) for each in without])
        rows = [_submission_row(each, now) for each in new if each.idempotency_key is not None]
        # Two transactions that insert the same keys wait for each other in the same order.
        rows.sort(key=lambda row: (row["tenant_id"], row["owner_id"], row["idempotency_key"]))
        unique = ("tenant_id", "owner_id", "idempotency_key")
        written = await insert_new_rows(self._connection, submissions, rows, unique=unique, returning="job_id")
        return written | {submission.job_id for submission in without}

    async def find_submissions(self, keys: Collection[tuple[Owner, str]]) -> dict[tuple[Owner, str], Submission]:
        """Return the submissions with these keys, by owner and key; keys that are new are absent."""
        if not keys:
            return {}
        columns = tuple_(submissions.c.tenant_id, submissions.c.owner_id, submissions.c.idempotency_key)
        wanted = columns.in_([(owner.tenant_id, owner.owner_id, key) for owner, key in keys])
        found = [_to_submission(row) for row in await self._connection.execute(select(submissions).where(wanted))]
        return {(submission.owner, submission.idempotency_key or ""): submission for submission in found}

    async def find_equal_submissions(
        self, digests: Collection[tuple[Owner, str]], *, within: timedelta
    ) -> dict[tuple[Owner, str], Submission]:
        """Return the newest submissions with these digests that are not older than `within`, by owner and digest."""
        if not digests:
            return {}
        columns = tuple_(submissions.c.tenant_id, submissions.c.owner_id, submissions.c.digest)
        wanted = columns.in_([(owner.tenant_id, owner.owner_id, digest) for owner, digest in digests])
        rows = await self._connection.execute(
            select(submissions)
            .where(wanted, submissions.c.created_at > db_now(plus=-within))
            .order_by(submissions.c.created_at, submissions.c.submission_id)
        )
        found = [_to_submission(row) for row in rows]
        return {(submission.owner, submission.digest): submission for submission in found}

    async def remove_old_submissions(self, older_than: timedelta) -> int:
        """Forget submissions. Returns how many."""
        result = await self._connection.execute(
            delete(submissions).where(submissions.c.created_at < db_now(plus=-older_than))
        )
        return result.rowcount

    # --- outcomes ---------------------------------------------------------------------------------------------------

    async def find_outcomes(self, job_ids: Iterable[str]) -> set[tuple[str, int, str]]:
        """Return which outcomes of these jobs are recorded: (job, stage, completion id)."""
        ids = list(job_ids)
        rows = await self._connection.execute(_OUTCOMES, {"job_ids": ids}) if ids else ()
        return {(row.job_id, row.stage, row.completion_id) for row in rows}

    async def add_outcomes(self, new: Sequence[tuple[LeaseRef, str, bytes]], now: datetime) -> None:
        """Record outcomes as they came: (lease, completion id, payload)."""
        rows = [
            {
                "job_id": ref.job_id,
                "stage": ref.stage,
                "completion_id": completion_id,
                "fence": ref.fence,
                "payload": payload,
                "recorded_at": now,
            }
            for ref, completion_id, payload in new
        ]
        await insert_rows(self._connection, outcomes, rows)

    # --- outbox -----------------------------------------------------------------------------------------------------

    async def send(
        self, kind: OutboxKind, job_ids: Iterable[str], now: datetime, *, claim_for: timedelta = timedelta(0)
    ) -> None:
        """Put something for the asset service into the outbox about each of these jobs.

        It is due at once, or claimed at once by whoever writes it, as `claim_due` would.
        """
        due_at = now + claim_for
        rows: list[dict[str, Any]] = [
            {"kind": kind.value, "job_id": job_id, "tries": 0, "due_at": due_at, "created_at": now}
            for job_id in job_ids
        ]
        await insert_rows(self._connection, outbox, rows)

    async def settle(self, jobs: Iterable[Job], now: datetime, *, claim_for: timedelta = timedelta(0)) -> None:
        """Put the settlements of jobs that are recorded or over into the outbox, where there is anything to settle."""
        job_ids = [job.job_id for job in jobs if job.needs_settling]
        await self.send(OutboxKind.SETTLE, job_ids, now, claim_for=claim_for)

    async def claim_due(self, kind: OutboxKind, *, limit: int, claim_for: timedelta) -> list[OutboxEntry]:
        """Claim entries that are due, oldest first: nobody else gets them for a time.

        Whoever claimed them removes them when they are told, puts them off, or renews its claim until it can. If it
        dies they are due again.
        """
        rows = (await self._connection.execute(_claim(claim_for), {"this_kind": kind.value, "most": limit})).all()
        rows = sorted(rows, key=lambda row: row.entry_id)
        return [OutboxEntry(OutboxKind(row.kind), row.job_id, row.tries) for row in rows]

    async def renew_claim(self, entries: Collection[OutboxEntry], *, claim_for: timedelta) -> None:
        """Keep entries that were claimed for some more time. Those that were told meanwhile stay gone."""
        for kind in {entry.kind for entry in entries}:
            mine = (outbox.c.kind == kind.value, among(outbox.c.job_id, [entry.job_id for entry in entries]))
            await self._connection.execute(update(outbox).where(*mine).values(due_at=db_now(plus=claim_for)))

    async def put_off(self, delays: Collection[tuple[OutboxEntry, timedelta]], now: datetime) -> None:
        """Try entries again later, each after its delay."""
        rows = [
            {"kind": entry.kind.value, "job_id": entry.job_id, "tries": entry.tries + 1, "due_at": now + delay}
            for entry, delay in delays
        ]
        await update_rows(self._connection, outbox, rows, match=_MINE)

    async def sent(self, kind: OutboxKind, job_ids: Collection[str]) -> None:
        """Remove what was told about jobs."""
        await delete_rows(self._connection, outbox, "job_id", job_ids, kind=kind.value)


@lru_cache(maxsize=8)
def _claim(claim_for: timedelta) -> Any:
    """Return the statement that claims; made once, because to make it costs more than to run it."""
    late = or_(outbox.c.due_at <= db_now(), outbox.c.due_at > db_now(plus=_LONGEST_WAIT))
    due = (
        select(outbox.c.entry_id)
        .where(outbox.c.kind == bindparam("this_kind"), late)
        .order_by(outbox.c.due_at, outbox.c.entry_id)
        .limit(bindparam("most"))
        .with_for_update(skip_locked=True)
    )
    return update(outbox).where(outbox.c.entry_id.in_(due)).values(due_at=db_now(plus=claim_for)).returning(outbox)


def _to_submission(row: Any) -> Submission:
    return Submission(Owner(row.tenant_id, row.owner_id), row.idempotency_key, row.digest, row.job_id)


def _submission_row(submission: Submission, now: datetime) -> dict[str, Any]:
    return {
        "tenant_id": submission.owner.tenant_id,
        "owner_id": submission.owner.owner_id,
        "idempotency_key": submission.idempotency_key,
        "digest": submission.digest,
        "job_id": submission.job_id,
        "created_at": now,
    }
