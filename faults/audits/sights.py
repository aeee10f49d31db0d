"""Every watcher saw every state change once and in order, over every reconnection."""

from __future__ import annotations

from collections import defaultdict

from faults.audits.rows import FINAL, assets_by_job, jobs_by_id
from faults.evidence import Evidence, Sight
from faults.finding import Finding
from faults.schedule import ASSET_SERVICES, ROUTERS


def job_watchers(owner: str) -> list[str]:
    """Return the names of the watchers of an owner's jobs, one at each router."""
    return [f"jobs-{owner}-{number}" for number in range(ROUTERS)]


def asset_watchers(owner: str) -> list[str]:
    """Return the names of the watchers of an owner's workspace, one at each asset service."""
    return [f"assets-{owner}-{number}" for number in range(ASSET_SERVICES)]


def every_change_once_in_order(evidence: Evidence) -> list[Finding]:
    """A watcher of an owner saw versions 1 to the last of each job; one of a job all from its snapshot on."""
    found = []
    jobs = jobs_by_id(evidence)
    seen: dict[tuple[str, str], list[Sight]] = defaultdict(list)
    for sight in evidence.sights:
        seen[sight.watcher, sight.job_id].append(sight)
    for job_id, job in jobs.items():
        for name in job_watchers(job["owner_id"]):
            found += _versions(name, job_id, seen.pop((name, job_id), []), job["version"], first=1)
    for (name, job_id), sights in seen.items():
        last = jobs[job_id]["version"] if job_id in jobs else 0
        found += _versions(name, job_id, sights, last, first=sights[0].version)
    return found


def _versions(watcher: str, job_id: str, sights: list[Sight], last: int, *, first: int) -> list[Finding]:
    told = [sight.version for sight in sights]
    wanted = list(range(first, last + 1))
    found = [
        Finding("snapshot instead of events", f"{watcher} lost its place at {job_id}")
        for sight in sights
        if sight.how == "snapshot again"
    ]
    if told == wanted:
        return found
    name = f"{watcher} was told {told} of {job_id}, not {wanted}"
    if len(told) != len(set(told)):
        return [*found, Finding("change told twice", name)]
    if told != sorted(told):
        return [*found, Finding("changes out of order", name)]
    return [*found, Finding("change not told", name)]


def assets_told_once(evidence: Evidence) -> list[Finding]:
    """A watcher of a workspace was told of each asset's publication once."""
    told: dict[str, list[str]] = defaultdict(list)
    found = []
    for sight in evidence.asset_sights:
        if sight.how == "published":
            told[sight.watcher].append(sight.asset_id)
        elif sight.how == "snapshot again":
            found.append(Finding("snapshot instead of events", f"{sight.watcher} lost its place"))
    owners = {job_id: row["owner_id"] for job_id, row in jobs_by_id(evidence).items()}
    for job_id, rows in assets_by_job(evidence).items():
        for name in asset_watchers(owners.get(job_id, "")):
            for row in rows:
                count = told[name].count(row["asset_id"])
                if count != 1:
                    kind = "asset told twice" if count else "asset not told"
                    found.append(Finding(kind, f"{name} was told {count} times of {row['asset_id']}"))
    return found


def caught_up(evidence: Evidence) -> bool:
    """Whether every watcher of an owner has seen the end of each of the owner's jobs, and every asset listed last."""
    ends = {(sight.watcher, sight.job_id) for sight in evidence.sights if sight.state in FINAL}
    assets = {(sight.watcher, sight.asset_id) for sight in evidence.asset_sights}
    submitted = [(made.owner, made.job_id) for made in evidence.submissions]
    listed = [(owner, asset) for owner, listed in evidence.listed.items() for asset in listed]
    return all((name, job_id) in ends for owner, job_id in submitted for name in job_watchers(owner)) and all(
        (name, asset) in assets for owner, asset in listed for name in asset_watchers(owner)
    )
