"""Writes the counts of `faults/results/schedules.jsonl` into docs/reliability.md: `python -m faults.report`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

from faults.schedule import JOBS, Kind

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "faults" / "results" / "schedules.jsonl"
PAGE = ROOT / "docs" / "reliability.md"
BEGIN = "<!-- Made by `python -m faults.report` from faults/results/schedules.jsonl. -->"
END = "<!-- End of what is made. -->"


def main() -> None:
    """Write the counts into the page."""
    PAGE.write_text(with_counts(PAGE.read_text("utf-8"), RESULTS.read_text("utf-8")), "utf-8")


def with_counts(page: str, results: str) -> str:
    """Return the page with its counts as the results, one JSON object a line, have them."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{counts(json.loads(line) for line in results.splitlines())}\n{END}{after}"


def counts(results: Iterable[dict[str, Any]]) -> str:
    """Return the counts as Markdown: one row for each kind, and sentences on all schedules."""
    runs = [run for run in results if run["jobs"] == JOBS]
    passed = [run for run in runs if run["verdict"] == "passed"]
    schedules = Counter(kind for run in passed for kind in run["kinds"])
    faults = [fault for run in passed for fault in run["faults"]]
    fired = Counter(fault["kind"] for fault in faults)
    rows = [f"| `{kind.value}` | {schedules[kind.value]} | {fired[kind.value]} |" for kind in Kind]
    return "\n".join(
        ["| fault | schedules | times fired |", "|---|---|---|", *rows, "", *_sentences(runs, passed, faults)]
    )


def seeds_as_ranges(seeds: Iterable[int]) -> str:
    """Return seeds in order, with neighbours as ranges: `1-3, 5`."""
    ranges: list[list[int]] = []
    for seed in sorted(set(seeds)):
        if ranges and seed == ranges[-1][1] + 1:
            ranges[-1][1] = seed
        else:
            ranges.append([seed, seed])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def _sentences(runs: list[dict[str, Any]], passed: list[dict[str, Any]], faults: list[dict[str, Any]]) -> list[str]:
    failed = {run["seed"] for run in runs if run["verdict"] == "failed"}
    mended = {run["seed"] for run in passed} & failed
    not_run = [run["seed"] for run in runs if run["verdict"] == "not_run"]
    unowned = sum((Counter(run["unowned_blobs"]) for run in passed), Counter[str]())
    lines = [
        f"- Passed: {len(passed)} schedules with {JOBS} jobs and {len(faults)} faults in all;"
        f" seeds {seeds_as_ranges(run['seed'] for run in passed)}.",
        f"- Failed: {seeds_as_ranges(failed - mended) or 'none'}; failed, and passed once its fault was mended:"
        f" {seeds_as_ranges(mended) or 'none'}. Not counted, since a fault found too little work left:"
        f" {seeds_as_ranges(not_run) or 'none'}.",
    ]
    if passed:
        lines += [
            f"- Jobs unfinished when a fault fired: {min(fault['unfinished'] for fault in faults)} at the least,"
            f" {median(fault['unfinished'] for fault in faults):g} in the median.",
            f"- One schedule takes {median(run['seconds'] for run in passed):.0f} s in the median.",
            f"- Blobs that no asset owned at the end: {sum(unowned.values())}"
            + "".join(f"; {count} {why}" for why, count in sorted(unowned.items()))
            + ".",
        ]
    return lines


if __name__ == "__main__":
    main()
