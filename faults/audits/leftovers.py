"""When every job has ended, nothing is queued, leased, held or waiting to be told."""

from __future__ import annotations

from faults.audits.rows import jobs_by_id, settlements_by_job
from faults.collect import MUST_EMPTY
from faults.evidence import Evidence, Row
from faults.finding import Finding

# A save, and renditions for what was saved before they were made; the library begins those by itself.
_LATE = "late:"
_COPIES = ("save:", _LATE)


def all_empty(evidence: Evidence) -> list[Finding]:
    """Queue, leases, outbox and holds are empty, and each job was settled that the asset service knew."""
    found = [
        Finding("left over", f"{table} has a row of {row.get('job_id') or row.get('holder') or row.get('kind')}")
        for table in MUST_EMPTY
        for row in evidence.tables[table]
        if not _ends_by_itself(row)
    ]
    known_there = {job_id for job_id, job in jobs_by_id(evidence).items() if _is_known_there(job["document"])}
    unsettled = sorted(known_there - set(settlements_by_job(evidence)))
    return found + [Finding("never settled", job_id) for job_id in unsettled]


def _is_known_there(document: Row) -> bool:
    """Whether the asset service was told of a job: one of outputs or references. Of any other it never hears."""
    return bool(document["outputs"] or document["references"])


def _ends_by_itself(row: Row) -> bool:
    """Whether a row is of a copy that the library makes at this moment, or broke off.

    That is its hold, which nobody renews: it lapses; or the note to release it, which nobody has tried yet.
    """
    if row.get("kind") == "release_hold":
        return str(row["payload"]["holder"]).startswith(_LATE) and row["attempts"] == 0
    return str(row.get("holder", "")).startswith(_COPIES) and row.get("expires_at") is not None
