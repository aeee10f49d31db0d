"""Liars got the answers that they should; clients were told nothing but what they can act on."""

from __future__ import annotations

from collections import defaultdict

from faults.evidence import Evidence
from faults.finding import Finding
from faults.schedule import Kind


def as_promised(evidence: Evidence) -> list[Finding]:
    """Each report was answered as it should be, no fence was recorded twice, and nothing odd was met."""
    found = [
        Finding("wrong answer", f"{report.behaviour} of {report.job_id} was answered {report.answer}")
        for report in evidence.reports
        if report.answer not in report.expected
    ]
    fences: dict[tuple[str, int, int], int] = defaultdict(int)
    for row in evidence.tables["router.outcomes"]:
        fences[row["job_id"], row["stage"], row["fence"]] += 1
    found += [
        Finding("recorded twice", f"{job_id} stage {stage} fence {fence}")
        for (job_id, stage, fence), count in fences.items()
        if count > 1
    ]
    # Tokens are signed and checked by processes' clocks; with one of them wrong, a refusal is the right answer.
    steps = any(fault["kind"] == Kind.STEP_CLOCK for fault in evidence.plan["faults"])
    odd = [text for text in dict.fromkeys(evidence.oddities) if not (steps and "UNAUTHENTICATED" in text)]
    return found + [Finding("odd", sentence) for sentence in odd]
