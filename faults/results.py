"""Results of schedules as lines of JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from faults.run import Result


def to_line(result: Result) -> str:
    """Return a result as one line."""
    return json.dumps(
        {
            "seed": result.seed,
            "verdict": result.verdict,
            "jobs": result.jobs,
            "kinds": result.kinds,
            "faults": [
                {key: value for key, value in asdict(fired).items() if key not in {"fired_at", "ended_at"}}
                for fired in result.fired
            ],
            "unowned_blobs": result.unowned,
            "seconds": round(result.seconds, 1),
            "findings": sorted({finding.name for finding in result.findings}),
        }
    )


def from_line(line: str) -> dict[str, Any]:
    """Return what a line says."""
    values: dict[str, Any] = json.loads(line)
    return values
