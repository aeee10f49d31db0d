"""Start-up time and memory of `atelier up`, as a user sees them."""

from __future__ import annotations

import statistics
from pathlib import Path

from atelier_client import Atelier
from benchmarks.figures import Figure
from benchmarks.system import proportional_set_size_mb, system

_STARTS = 5
_JOBS = 10


def measure(folder: Path) -> list[Figure]:
    """Start the system five times, then give it ten jobs and weigh the whole process tree.

    The first start of all makes databases and keys and is not counted.
    """
    data = folder / "footprint"
    with system(data):
        pass
    starts = []
    for _ in range(_STARTS):
        with system(data) as running:
            starts.append(running.ready_after_s)
    with system(data) as running:
        idle_mb = proportional_set_size_mb(running.process_id)
        with Atelier(running.url, running.key) as client:
            for number in range(_JOBS):
                client.generate("a lighthouse on a cliff", model="sdxl", format="image", seed=number)
        after_mb = proportional_set_size_mb(running.process_id)
    return [
        Figure("atelier up to the first 200 of /v1/health", statistics.median(starts), "s", limit=2.0, samples=starts),
        Figure("process tree, idle (PSS)", idle_mb, "MB", limit=250.0, samples=[idle_mb]),
        Figure(f"process tree after {_JOBS} jobs (PSS)", after_mb, "MB", limit=250.0, samples=[after_mb]),
    ]
