"""The lock of a job: what a settlement ends, and what must not begin after it, happen one after the other.

A job has no row here before its settlement, so the lock is one of the transaction's advisory locks. It is the first
lock that a transaction takes; rows follow, sorted by id, and the heads of events come last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from sqlalchemy import BigInteger, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.ext.asyncio import AsyncConnection

from service_kit.postgres_driver import send_later

# Sorted, so that two transactions that want the same locks never wait for each other.
_LOCK_LATER = "SELECT pg_advisory_xact_lock(key) FROM unnest(%(keys)b::bigint[]) AS key"
_LOCK = text("SELECT pg_advisory_xact_lock(key) FROM unnest(:keys) AS key").bindparams(
    bindparam("keys", type_=ARRAY(BigInteger))
)


async def lock_jobs(connection: AsyncConnection, job_ids: Iterable[str]) -> None:
    """Wait until no other transaction has the locks of these jobs, and keep them to the end of this one.

    On SQLite there is one writer, which has every lock already.
    """
    keys = _keys(connection, job_ids)
    if keys:
        await connection.execute(_LOCK, {"keys": keys})


def lock_jobs_later(connection: AsyncConnection, job_ids: Iterable[str]) -> None:
    """Do the same with the next statement, which waits for the locks: for callers whose next statement is a look."""
    keys = _keys(connection, job_ids)
    if keys:
        send_later(connection, _LOCK_LATER, {"keys": keys})


def _keys(connection: AsyncConnection, job_ids: Iterable[str]) -> list[int]:
    return [] if connection.dialect.name == "sqlite" else sorted({job_lock(job_id) for job_id in job_ids})


def job_lock(job_id: str) -> int:
    """Return the number of a job's lock. Two jobs with one number only wait for each other."""
    return int.from_bytes(hashlib.blake2b(f"asset.job:{job_id}".encode(), digest_size=8).digest(), signed=True)
