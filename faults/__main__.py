"""`python -m faults`: runs seeded schedules, one after the other, and says how each went."""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import psycopg

from faults.actions.disks import NoVolume
from faults.faketime import NoFakeTime
from faults.finding import Finding
from faults.results import to_line
from faults.run import Result, keep, make_template, run_schedule
from faults.schedule import JOBS, Schedule, plan
from tests.support.postgres import Databases, PostgresServer

EVIDENCE = Path("build/faults")
# Each part of a run has a deadline of its own; this one is for what none of them thought of.
_NEVER_LONGER_S = 400.0


def main() -> int:
    """Run what the command line asks for. Returns 0 when every schedule that ran passed."""
    arguments = _parser().parse_args()
    seeds = arguments.seed or list(range(arguments.first, arguments.first + arguments.schedules))
    verdicts = []
    with tempfile.TemporaryDirectory(prefix="atelier-faults-") as name, _guarded(Path(name)):
        folder = Path(name)
        # PostgreSQL runs as nobody, when we are root.
        folder.chmod(0o755)
        with PostgresServer(folder / "postgres", fsync=True, options={"max_connections": "200"}) as postgres:
            databases, template = Databases(postgres.url()), make_template()
            for seed in seeds:
                schedule = plan(seed, arguments.jobs)
                _say_plan(schedule, whole=len(seeds) == 1)
                result = _run(schedule, postgres, databases, folder, template, arguments)
                if arguments.results:
                    with arguments.results.open("a", encoding="utf-8") as file:
                        file.write(to_line(result) + "\n")
                verdicts.append(result.verdict)
    _say(f"{verdicts.count('passed')} passed, {verdicts.count('failed')} failed, {verdicts.count('not_run')} not run")
    return 1 if "failed" in verdicts or "passed" not in verdicts else 0


def _run(
    schedule: Schedule,
    postgres: PostgresServer,
    databases: Databases,
    folder: Path,
    template: bytes,
    arguments: argparse.Namespace,
) -> Result:
    """Run one schedule on a fresh database, and keep the evidence when it failed."""
    _ensure(postgres)
    url = databases.create()
    run_folder = folder / f"seed-{schedule.seed}"
    run_folder.mkdir()
    try:
        running = run_schedule(schedule, postgres, url, run_folder, template)
        result, evidence = asyncio.run(asyncio.wait_for(running, _NEVER_LONGER_S))
        if result.verdict == "failed" or arguments.keep:
            kept = arguments.evidence / f"seed-{schedule.seed}"
            keep(result, evidence, run_folder, kept)
            _say(f"  evidence: {kept}")
    except (NoVolume, NoFakeTime) as error:
        _say(f"  {error}")
        result = Result(schedule.seed, "not_run", len(schedule.jobs), schedule.kinds, [], [], {}, 0.0)
    except (TimeoutError, OSError, psycopg.Error, RuntimeError) as error:
        # What broke the harness itself must not keep the next schedule from running.
        finding = Finding("harness", f"{type(error).__name__}: {error}")
        result = Result(schedule.seed, "failed", len(schedule.jobs), schedule.kinds, [], [finding], {}, 0.0)
    finally:
        shutil.rmtree(run_folder, ignore_errors=True)
        _ensure(postgres)
        databases.drop(url)
    _say_result(result)
    return result


def _ensure(postgres: PostgresServer) -> None:
    """Have PostgreSQL run, whatever a schedule that broke off has left."""
    try:
        psycopg.connect(postgres.url(), connect_timeout=5).close()
    except psycopg.OperationalError:
        postgres.kill()
        postgres.start()


@contextmanager
def _guarded(folder: Path) -> Iterator[None]:
    """Have the folder cleaned up even if this process is killed."""
    guard = subprocess.Popen(
        [sys.executable, "-m", "faults.guard", str(folder)], stdin=subprocess.PIPE, start_new_session=True
    )
    try:
        yield
    finally:
        guard.kill()
        guard.wait()


def _say_plan(schedule: Schedule, *, whole: bool) -> None:
    _say(f"seed {schedule.seed}: {len(schedule.jobs)} jobs, {len(schedule.faults)} faults")
    for fault in schedule.faults:
        _say(f"  {fault}")
    if whole:
        for job in schedule.jobs:
            _say(f"  {json.dumps(asdict(job))}")


def _say_result(result: Result) -> None:
    for fired in result.fired:
        _say(f"  fired {fired.kind} on {fired.target} at {fired.point}, {fired.unfinished} unfinished {fired.note}")
    for finding in result.findings[:40]:
        _say(f"  FOUND {finding}")
    if len(result.findings) > 40:
        _say(f"  and {len(result.findings) - 40} more")
    _say(f"  {result.verdict} in {result.seconds:.1f} s, unowned blobs: {result.unowned or 'none'}")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("--seed", type=int, nargs="+", help="run exactly these seeds, and print their whole plans")
    parser.add_argument("--first", type=int, default=1, help="the first of several seeds")
    parser.add_argument("--schedules", type=int, default=5, help="how many seeds, from the first on")
    parser.add_argument("--jobs", type=int, default=JOBS, help="jobs of a schedule; fewer do not count as one")
    parser.add_argument("--results", type=Path, help="file that gets one line of JSON for each schedule")
    parser.add_argument("--evidence", type=Path, default=EVIDENCE, help="folder for the evidence of failures")
    parser.add_argument("--keep", action="store_true", help="keep the evidence of schedules that pass, too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
