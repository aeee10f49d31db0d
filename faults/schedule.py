"""A schedule: which jobs are submitted, which faults fire, and at which points of progress.

It is a function of the seed alone.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

JOBS = 100
OWNERS = ("ada", "ben")
WORKERS = 3
ROUTERS = 2
ASSET_SERVICES = 2
LIBRARIES = 2
MODELS = {"picture": "sdxl", "batch": "sdxl", "two_stage": "sdxl", "video": "wan", "enhancement": "sdxl"}

# A fault that fires later than this would find less than 30 % of the jobs unfinished.
_LATEST = 0.55
# How many faults a schedule has; five are rare, since they leave little time to recover in between.
_HOW_MANY = (3, 3, 3, 4, 4, 5)


class Kind(StrEnum):
    """What can go wrong. The value is the word in results and documents."""

    KILL_WORKER = "kill_worker"
    KILL_ROUTER = "kill_router"
    KILL_ASSET_SERVICE = "kill_asset_service"
    KILL_LIBRARY = "kill_library"
    KILL_POSTGRES = "kill_postgres"
    STALL_CONNECTION = "stall_connection"
    CUT_CONNECTION = "cut_connection"
    PAUSE_WORKER = "pause_worker"
    PAUSE_ROUTER = "pause_router"
    REPORT_TWICE = "report_twice"
    REPORT_LATE = "report_late"
    REPORT_OLD_FENCE = "report_old_fence"
    REPORT_FORGED = "report_forged"
    REPORT_FOREIGN = "report_foreign"
    FULL_DISK = "full_disk"
    STEP_CLOCK = "step_clock"


# A library is killed in every schedule, beside the faults that are drawn.
_DRAWN = tuple(kind for kind in Kind if kind is not Kind.KILL_LIBRARY)


class Measure(StrEnum):
    """What progress is measured by, all of it as the harness sees it from outside."""

    ACCEPTED = "jobs accepted"
    LEASED = "leases seen"
    RECORDED = "outcomes seen recorded"
    FINISHED = "jobs seen finished"
    UPLOADED = "KiB of outputs sent"


@dataclass(frozen=True, slots=True)
class Point:
    """A point of progress: the first moment at which `measure` is at least `count`."""

    measure: Measure
    count: int

    def __str__(self) -> str:
        return f"{self.count} {self.measure.value}"


@dataclass(frozen=True, slots=True)
class JobPlan:
    """One job.

    `flaky` runs fail before one succeeds, `crashes` kill the engine, `refused` names an index that never comes.

    `cancel` is empty, `accepted` (cancelled as soon as it is accepted) or `running`. A `doomed` job can only fail.
    `twice` says that it is submitted to both routers at once under one idempotency key.
    """

    number: int
    owner: str
    kind: str
    quantity: int
    flaky: int = 0
    crashes: int = 0
    refused: int = -1
    doomed: bool = False
    cancel: str = ""
    twice: bool = False


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """One fault: `target` counts from 0 among what this kind may hit, `seconds` is how long it lasts."""

    kind: Kind
    at: Point
    target: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.kind.value} of number {self.target} at {self.at}, for {self.seconds:g} s"


@dataclass(frozen=True, slots=True)
class Schedule:
    """Everything that the seed decides."""

    seed: int
    jobs: tuple[JobPlan, ...]
    faults: tuple[FaultPlan, ...]

    @property
    def kinds(self) -> list[str]:
        """The kinds of its faults, each once, sorted."""
        return sorted({fault.kind.value for fault in self.faults})

    def described(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain


def plan(seed: int, jobs: int = JOBS) -> Schedule:
    """Return the schedule of a seed; with fewer jobs the points of progress shrink alike.

    Args:
        seed: any integer; equal seeds give equal schedules.
        jobs: how many jobs are submitted.
    """
    rng = random.Random(f"atelier faults {seed}")
    planned = tuple(_job(rng, number) for number in range(jobs))
    return Schedule(seed, planned, (*_faults(rng, planned), _library_kill(seed, planned)))


def _job(rng: random.Random, number: int) -> JobPlan:
    kind = rng.choices(list(MODELS), weights=[45, 20, 15, 10, 10])[0]
    quantity = rng.randint(2, 5) if kind == "batch" else 1
    trouble = rng.random()
    return JobPlan(
        number=number,
        owner=rng.choice(OWNERS),
        kind=kind,
        quantity=quantity,
        flaky=rng.choice((1, 1, 2)) if trouble < 0.15 else 0,
        crashes=1 if 0.15 <= trouble < 0.19 else 0,
        refused=rng.randrange(quantity) if kind == "batch" and rng.random() < 0.25 else -1,
        doomed=0.19 <= trouble < 0.22,
        cancel=rng.choice(("accepted", "running", "running")) if rng.random() < 0.12 else "",
        twice=rng.random() < 0.10,
    )


def _faults(rng: random.Random, jobs: tuple[JobPlan, ...]) -> tuple[FaultPlan, ...]:
    how_many = rng.choice(_HOW_MANY)
    kinds = rng.sample(_DRAWN, k=min(3, how_many))
    kinds += rng.choices(_DRAWN, k=how_many - len(kinds))
    rng.shuffle(kinds)
    faults = []
    for place, kind in enumerate(kinds):
        # Spread over the run, so that each finds work in hand and some find another fault still on.
        share = _LATEST * (place + rng.random()) / len(kinds)
        faults.append(FaultPlan(kind, _point(rng, share, jobs), rng.randrange(1_000), round(rng.uniform(0.3, 1.2), 2)))
    return tuple(faults)


def _library_kill(seed: int, jobs: tuple[JobPlan, ...]) -> FaultPlan:
    """Return when a library is killed: not before there is something to save."""
    rng = random.Random(f"atelier faults library {seed}")
    point = _point(rng, _LATEST * rng.uniform(0.3, 1), jobs)
    return FaultPlan(Kind.KILL_LIBRARY, point, rng.randrange(1_000), round(rng.uniform(0.3, 1.2), 2))


def _point(rng: random.Random, share: float, jobs: tuple[JobPlan, ...]) -> Point:
    """Return the point at which about `share` of the work is done, by a measure that the seed chooses."""
    outputs = sum(job.quantity for job in jobs if job.kind != "enhancement")
    whole = {
        Measure.ACCEPTED: len(jobs),
        Measure.LEASED: len(jobs),
        Measure.RECORDED: len(jobs),
        Measure.FINISHED: len(jobs),
        Measure.UPLOADED: outputs * 100,
    }
    measure = rng.choice(list(Measure))
    return Point(measure, max(1, int(whole[measure] * share)))
