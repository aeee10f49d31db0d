"""Runs one schedule: the system up, the load on, the faults at their points, then everything down and the audit."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from faults.actions import ACTIONS, clocks, disks
from faults.auditor import audit
from faults.audits.blobs import unowned
from faults.audits.sights import caught_up
from faults.clients import Owner, sign_in
from faults.cluster import Cluster
from faults.collect import collect, quiet
from faults.engine import TEMPLATE, video_template
from faults.evidence import Evidence, Fired
from faults.field import Field
from faults.finding import Finding
from faults.load import Load
from faults.progress import Progress
from faults.schedule import FaultPlan, Kind, Schedule
from faults.sweeping import sweep
from tests.support.postgres import PostgresServer

# Nothing hangs: whatever has not ended by then is killed, and that is a finding.
_START_LIMIT_S = 60.0
_RUN_LIMIT_S = 150.0
_QUIET_LIMIT_S = 20.0
# Uploads of losers are deleted at leisure; so long they are waited for, to be counted less.
_PATIENCE_S = 2.0
_CATCH_UP_LOOKS, _CATCH_UP_PAUSE_S = 100, 0.1
_LAST_LOOK_S = 15.0
_LAST_FAULT_S = 10.0
# A fault counts only if at least this share of the jobs had not finished when it fired.
LEAST_UNFINISHED = 0.3
NOT_STARTED = "not started"


@dataclass(frozen=True, slots=True)
class Result:
    """How a schedule went: `passed`, `failed`, or `not_run` when a fault found too little work left or did not fire."""

    seed: int
    verdict: str
    jobs: int
    kinds: list[str]
    fired: list[Fired]
    findings: list[Finding]
    unowned: dict[str, int]
    seconds: float


async def run_schedule(
    schedule: Schedule, postgres: PostgresServer, database_url: str, folder: Path, template: bytes
) -> tuple[Result, Evidence]:
    """Run a schedule in a folder of its own, on a fresh database. Everything that it started has ended afterwards.

    Raises:
        NoVolume: it fills a disk, and none can be mounted here.
        NoFakeTime: it steps a clock, and libfaketime is not installed.
    """
    begun = time.monotonic()
    evidence, progress = Evidence(schedule.described()), Progress()
    cluster = Cluster(folder, database_url, on_uploaded=progress.uploaded)
    field = Field(cluster, postgres, database_url, progress, evidence)
    cluster.engine_folder.mkdir(parents=True)
    (cluster.engine_folder / TEMPLATE).write_bytes(template)
    late: list[Finding] = []
    async with _prepared(cluster, schedule):
        try:
            await _live(schedule, field, late)
        finally:
            evidence.oddities += await cluster.end()
        await collect(evidence, database_url, cluster.data / "blobs")
        late += await sweep(cluster.data, database_url)
    evidence.fired = _with_unfinished(evidence)
    findings = [*late, *audit(evidence)]
    verdict = "failed" if findings else "passed" if _counts(schedule, evidence) else "not_run"
    if any(finding.name == NOT_STARTED for finding in late):
        verdict = "not_run"
    seconds = time.monotonic() - begun
    result = Result(
        schedule.seed, verdict, len(schedule.jobs), schedule.kinds, evidence.fired, findings, unowned(evidence), seconds
    )
    return result, evidence


def make_template() -> bytes:
    """Return what every video of a run starts with."""
    return video_template()


@asynccontextmanager
async def _prepared(cluster: Cluster, schedule: Schedule) -> AsyncIterator[None]:
    """Put in place what some faults need before anything starts."""
    for fault in schedule.faults:
        if fault.kind is Kind.STEP_CLOCK:
            clocks.prepare(cluster, fault)
    fills = any(fault.kind is Kind.FULL_DISK for fault in schedule.faults)
    try:
        if fills:
            disks.mount(cluster.data)
        yield
    finally:
        if fills:
            disks.unmount(cluster.data)


async def _live(schedule: Schedule, field: Field, late: list[Finding]) -> None:
    """Start the system, put load on it and fire the faults until every job has ended and everything is quiet."""
    cluster = field.cluster
    owners: list[Owner] = []
    load: Load | None = None
    try:
        async with asyncio.timeout(_START_LIMIT_S):
            await cluster.start()
            owners = await sign_in(cluster)
            load = Load(schedule, owners, field.evidence, field.progress, cluster.data / "blobs")
            await load.watchers.begin(owners)
            await cluster.start_workers()
        await _work(schedule, field, load, late)
    except TimeoutError:
        late.append(Finding(NOT_STARTED, f"the system did not start within {_START_LIMIT_S:g} s"))
    finally:
        if load is not None:
            await load.watchers.end()
            await load.close()
        for owner in owners:
            await owner.close()


async def _work(schedule: Schedule, field: Field, load: Load, late: list[Finding]) -> None:
    firing = [asyncio.create_task(_fire(field, fault), name=fault.kind.value) for fault in schedule.faults]
    try:
        async with asyncio.timeout(_RUN_LIMIT_S):
            await load.run()
            # A liar may still be waiting for work that is no longer there; the others end by themselves.
            if firing:
                await asyncio.wait(firing, timeout=_LAST_FAULT_S)
    except TimeoutError:
        late.append(Finding("too late", f"not every job was seen to end within {_RUN_LIMIT_S:g} s"))
    finally:
        for task in firing:
            task.cancel()
        outcomes = await asyncio.gather(*firing, return_exceptions=True)
    for task, outcome in zip(firing, outcomes, strict=True):
        if isinstance(outcome, Exception):
            late.append(Finding("harness", f"{task.get_name()} broke off: {type(outcome).__name__}: {outcome}"))
    await _settle_down(field, load, late)


async def _settle_down(field: Field, load: Load, late: list[Finding]) -> None:
    """Wait until nothing is left to do and every watcher has caught up; then look a last time."""
    await quiet(field.database_url, limit_s=_QUIET_LIMIT_S, patience_s=_PATIENCE_S)
    evidence = field.evidence
    try:
        async with asyncio.timeout(_LAST_LOOK_S):
            await load.look_last()
    except TimeoutError:
        late.append(Finding("no answer", f"the workspaces could not be listed within {_LAST_LOOK_S:g} s at the end"))
    for _ in range(_CATCH_UP_LOOKS):
        if caught_up(evidence):
            break
        await asyncio.sleep(_CATCH_UP_PAUSE_S)


async def _fire(field: Field, fault: FaultPlan) -> None:
    """Wait for the point of a fault, and let it happen."""
    await field.progress.reach(fault.at)
    begun = time.time()
    try:
        target = await ACTIONS[fault.kind](field, fault)
    except asyncio.CancelledError:
        field.evidence.fired.append(Fired(fault.kind.value, "", str(fault.at), begun, time.time(), "broke off"))
        raise
    field.evidence.fired.append(Fired(fault.kind.value, target, str(fault.at), begun, time.time()))


def _with_unfinished(evidence: Evidence) -> list[Fired]:
    """Count, by the database's times, how many of all planned jobs had not finished when each fault fired."""
    ends = [row["finished_at"] for row in evidence.tables["router.jobs"] if row["finished_at"] is not None]
    jobs = len(evidence.plan["jobs"])
    return [replace(fired, unfinished=jobs - sum(end < fired.fired_at for end in ends)) for fired in evidence.fired]


def _counts(schedule: Schedule, evidence: Evidence) -> bool:
    """Whether every fault fired, did what it does, and found enough unfinished jobs."""
    done = [fired for fired in evidence.fired if not fired.note]
    least = LEAST_UNFINISHED * len(schedule.jobs)
    return len(done) == len(schedule.faults) and all(fired.unfinished >= least for fired in done)


def keep(result: Result, evidence: Evidence, run_folder: Path, kept: Path) -> None:
    """Keep the evidence and the logs of a run, in place of those of an earlier run of the seed."""
    shutil.rmtree(kept, ignore_errors=True)
    evidence.save(kept)
    for log in run_folder.glob("*.log"):
        shutil.copy(log, kept / log.name)
    (kept / "findings.txt").write_text("\n".join(str(finding) for finding in result.findings) + "\n", "utf-8")
