"""Every accepted job ended once, as it was planned, and no state went backwards."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

from faults.audits.rows import FINAL, delivered_indexes, jobs_by_id, plans_by_number
from faults.evidence import Evidence, Row, Submission
from faults.finding import Finding
from faults.schedule import JobPlan

# A stage may be tried again, and a job has stages; nothing else leads back. Until somebody else has taken a lease that
# was lost, its old holder may still record, so a job that waits again may be published all the same.
_FORWARD = {
    "queued": {"queued", "running", "publishing", "succeeded", "failed", "cancelled"},
    "running": {"running", "queued", "publishing", "succeeded", "failed", "cancelled"},
    "publishing": {"succeeded", "failed"},
    "succeeded": set(),
    "failed": set(),
    "cancelled": set(),
}


def ended_once(evidence: Evidence) -> list[Finding]:
    """Each submission is one job, each job has one end, and there is no job that nobody submitted."""
    found = []
    jobs = jobs_by_id(evidence)
    ids: dict[str, set[str]] = defaultdict(set)
    for made in evidence.submissions:
        ids[made.key].add(made.job_id)
    for key, of_key in ids.items():
        if len(of_key) > 1:
            found.append(Finding("accepted twice", f"{key} became {sorted(of_key)}"))
    accepted = set().union(*ids.values()) if ids else set()
    for job_id in sorted(accepted - set(jobs)):
        found.append(Finding("job lost", f"{job_id} was accepted and is not in the database"))
    for job_id in sorted(set(jobs) - accepted):
        found.append(Finding("job of nobody", f"{job_id} is in the database, and nobody was told of it"))
    for number in sorted(set(plans_by_number(evidence)) - {made.number for made in evidence.submissions}):
        found.append(Finding("never accepted", f"job {number} of the plan was never answered"))
    for job_id, job in jobs.items():
        if job["state"] not in FINAL:
            found.append(Finding("job not ended", f"{job_id} is {job['state']} at the end"))
    ends: dict[str, int] = defaultdict(int)
    for sight in {(sight.job_id, sight.version, sight.state) for sight in evidence.sights}:
        ends[sight[0]] += sight[2] in FINAL
    found += [
        Finding("ended twice", f"{job_id} was seen to end {count} times") for job_id, count in ends.items() if count > 1
    ]
    return found


def as_planned(evidence: Evidence) -> list[Finding]:
    """A job that nothing was wrong with succeeds with all its outputs; a cancelled one may; a doomed one fails."""
    jobs, plans = jobs_by_id(evidence), plans_by_number(evidence)
    found = []
    for made in evidence.submissions:
        job = jobs.get(made.job_id)
        if job is not None and job["state"] in FINAL:
            found += _compare(made, plans[made.number], job)
    return found


def _compare(made: Submission, plan: JobPlan, job: Row) -> list[Finding]:
    allowed = {"failed"} if plan.doomed and plan.kind != "enhancement" else {"succeeded"}
    if plan.cancel:
        allowed.add("cancelled")
    if job["state"] not in allowed:
        failure = job["document"].get("failure")
        return [Finding("wrong end", f"{made.job_id} (plan {plan}) ended {job['state']}: {failure}")]
    if job["state"] != "succeeded" or plan.kind == "enhancement":
        return []
    wanted = [index for index in range(plan.quantity) if index != plan.refused]
    delivered = delivered_indexes(job)
    if delivered != wanted:
        return [Finding("outputs missing", f"{made.job_id} delivered {delivered}, not {wanted}")]
    return []


def went_forward(evidence: Evidence) -> list[Finding]:
    """No watcher saw a job leave its end, or come back from publishing."""
    found = []
    seen: dict[str, dict[int, str]] = defaultdict(dict)
    for sight in evidence.sights:
        known = seen[sight.job_id].setdefault(sight.version, sight.state)
        if known != sight.state:
            sentence = f"{sight.job_id} was seen {known} and {sight.state} at version {sight.version}"
            found.append(Finding("two states at once", sentence))
    for job_id, states in seen.items():
        versions = sorted(states)
        for before, after in pairwise(versions):
            if states[after] not in _FORWARD[states[before]]:
                sentence = f"{job_id} went from {states[before]} to {states[after]} at version {after}"
                found.append(Finding("state went backwards", sentence))
    return found
