"""No output is missing and none is there twice; nobody sees one before its job was settled, nor success before it."""

from __future__ import annotations

from faults.audits.rows import assets_by_job, delivered_indexes, jobs_by_id, settlements_by_job
from faults.evidence import Evidence
from faults.finding import Finding
from service_kit.ids import asset_id

# What the clocks of two processes on one machine may differ by, in seconds.
_CLOCKS_S = 0.005


def none_missing_none_twice(evidence: Evidence) -> list[Finding]:
    """A job that succeeded has exactly the assets that it delivered; any other job has none."""
    found = []
    assets = assets_by_job(evidence)
    for job_id, job in jobs_by_id(evidence).items():
        wanted = delivered_indexes(job) if job["state"] == "succeeded" else []
        have = sorted(asset["asset_index"] for asset in assets.get(job_id, []))
        if missing := [index for index in wanted if index not in have]:
            found.append(Finding("output missing", f"{job_id} has no asset at {missing}"))
        if twice := sorted({index for index in have if have.count(index) > 1}):
            found.append(Finding("output twice", f"{job_id} has more than one asset at {twice}"))
        if extra := sorted(set(have) - set(wanted)):
            found.append(Finding("output of no success", f"{job_id} is {job['state']} and has assets at {extra}"))
        for asset in assets.get(job_id, []):
            if asset["asset_id"] != asset_id(job_id, asset["asset_index"]):
                found.append(Finding("wrong asset id", f"{asset['asset_id']} of {job_id}"))
    keys = [row["key"] for rows in assets.values() for row in rows]
    found += [Finding("blob of two assets", key) for key in sorted({key for key in keys if keys.count(key) > 1})]
    return found


def nothing_staged_visible(evidence: Evidence) -> list[Finding]:
    """Whatever anybody saw in a workspace had been published by a settlement that was committed before."""
    found = []
    settled = settlements_by_job(evidence)
    for sight in evidence.asset_sights:
        settlement = settled.get(sight.job_id)
        published = {asset_id(sight.job_id, index) for index in settlement["published"]} if settlement else set()
        if settlement is None or sight.asset_id not in published:
            sentence = f"{sight.watcher} saw {sight.asset_id} of {sight.job_id}, which no settlement published"
            found.append(Finding("staged output visible", sentence))
        elif settlement["created_at"] > sight.at + _CLOCKS_S:
            found.append(
                Finding("staged output visible", f"{sight.watcher} saw {sight.asset_id} before it was settled")
            )
    known = {row["asset_id"] for row in evidence.tables["asset.workspace_assets"] if row["state"] == "available"}
    for owner, listed in evidence.listed.items():
        found += [
            Finding("staged output visible", f"{owner}'s listing shows {shown}, which is no asset")
            for shown in sorted(set(listed) - known)
        ]
    in_listings = {shown for listed in evidence.listed.values() for shown in listed}
    found += [Finding("asset not listed", shown) for shown in sorted(known - in_listings)]
    return found


def there_before_success(evidence: Evidence) -> list[Finding]:
    """Whoever saw SUCCEEDED also saw the assets with their bytes; and they were committed before it was."""
    found = []
    for check in evidence.checks:
        if missing := sorted(set(check.delivered) - set(check.listed)):
            sentence = f"{check.job_id} was seen to have succeeded without its assets at {missing}"
            found.append(Finding("success before the assets", sentence))
        found += [Finding("asset without bytes", f"{check.job_id}: {problem}") for problem in check.broken]
    checked = {check.job_id for check in evidence.checks}
    assets = assets_by_job(evidence)
    for job_id, job in jobs_by_id(evidence).items():
        if job["state"] != "succeeded" or not delivered_indexes(job):
            continue
        if job_id not in checked:
            found.append(Finding("success not looked at", f"nobody saw {job_id} succeed"))
        for asset in assets.get(job_id, []):
            if asset["created_at"] > job["finished_at"]:
                sentence = f"{job_id} succeeded before its asset {asset['asset_index']} was there"
                found.append(Finding("success before the assets", sentence))
    return found
