"""The page on reliability: its counts are those of the results that are kept."""

from __future__ import annotations

import json

from faults.report import BEGIN, END, PAGE, RESULTS, ROOT, seeds_as_ranges, with_counts
from faults.schedule import Kind, plan


def test_the_page_has_the_counts_of_the_results() -> None:
    page = PAGE.read_text("utf-8")
    assert with_counts(page, RESULTS.read_text("utf-8")) == page, "run python -m faults.report"


def test_only_whole_schedules_that_passed_are_counted() -> None:
    fired = {"kind": "kill_router", "target": "router-0", "point": "", "note": "", "unfinished": 40}
    run = {"seed": 7, "verdict": "passed", "jobs": 100, "kinds": ["kill_router"], "faults": [fired], "seconds": 10.0}
    run["unowned_blobs"] = {"staged by a settled job": 2}
    results = [run | {"verdict": "failed"}, run, run | {"seed": 8}, run | {"seed": 9, "jobs": 20}]
    results.append(run | {"seed": 12, "verdict": "failed"})
    page = with_counts(f"{BEGIN}{END}", "\n".join(json.dumps(result) for result in results))
    assert "| `kill_router` | 2 | 2 |" in page
    assert "Passed: 2 schedules with 100 jobs and 2 faults in all; seeds 7-8." in page
    assert "Failed: 12; failed, and passed once its fault was mended: 7." in page
    assert "4; 4 staged by a settled job." in page


def test_seeds_are_written_as_ranges() -> None:
    assert seeds_as_ranges([5, 1, 2, 3, 9, 3]) == "1-3, 5, 9"


def test_the_short_part_of_continuous_integration_has_every_kind() -> None:
    line = next(line for line in (ROOT / ".ci" / "run").read_text("utf-8").splitlines() if "make faults" in line)
    seeds = [int(word) for word in line.partition("SEED=")[2].strip('"').split()]
    assert len(seeds) == 4
    assert {kind for seed in seeds for kind in plan(seed).kinds} == {kind.value for kind in Kind}
