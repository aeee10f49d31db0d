"""How audits read the tables."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from faults.evidence import Evidence, Row
from faults.schedule import JobPlan

FINAL = frozenset({"succeeded", "failed", "cancelled"})


def jobs_by_id(evidence: Evidence) -> dict[str, Row]:
    """Return the router's jobs by id."""
    return {row["job_id"]: row for row in evidence.tables["router.jobs"]}


def assets_by_job(evidence: Evidence) -> dict[str, list[Row]]:
    """Return the assets of jobs that were not removed, by job id."""
    return grouped((row for row in evidence.tables["asset.workspace_assets"] if row["state"] != "removed"), "job_id")


def settlements_by_job(evidence: Evidence) -> dict[str, Row]:
    """Return the settlements by job id."""
    return {row["job_id"]: row for row in evidence.tables["asset.settlements"]}


def plans_by_number(evidence: Evidence) -> dict[int, JobPlan]:
    """Return what each job was to be."""
    return {row["number"]: JobPlan(**row) for row in evidence.plan["jobs"]}


def grouped(rows: Iterable[Row], column: str) -> dict[str, list[Row]]:
    """Return rows by the value of a column."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row[column]].append(row)
    return groups


def delivered_indexes(job: Row) -> list[int]:
    """Return the indexes that a job says it delivered."""
    return [output["asset_index"] for output in job["document"]["outputs"] if output["state"] == "delivered"]
