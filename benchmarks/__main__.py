"""`make bench`: takes every figure in one run, prints the table, writes both with the environment beside them."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks import figures, footprint, latency

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Measure. Exits with 1 when a figure misses its limit."""
    with tempfile.TemporaryDirectory(prefix="atelier-bench-") as folder:
        taken = [*footprint.measure(Path(folder)), *latency.measure(Path(folder))]
    page = figures.write(taken, RESULTS)
    sys.stdout.write(f"{figures.table(taken)}\n\nwritten to {page.relative_to(Path.cwd())}\n")
    sys.exit(0 if all(figure.is_reached for figure in taken) else 1)


if __name__ == "__main__":
    main()
