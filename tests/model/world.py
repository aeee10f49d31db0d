"""What every deed of the model has at hand: the house, its workers, the state before, and what was promised so far."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from datetime import datetime, timedelta
from typing import Any, TypeVar

from hypothesis.stateful import RuleBasedStateMachine

from router_service.domain import Job, JobState
from service_kit.identity import KeyKind, Owner
from tests.model.house import House, Running
from tests.model.invariants import OWNERS, State, Watcher, read_state
from tests.model.processes import Gone
from tests.model.workers import Leased, Ref, Worker

OPEN = (JobState.QUEUED, JobState.RUNNING)
TICK = timedelta(milliseconds=1)
Work = Coroutine[Any, Any, None]
_Deed = TypeVar("_Deed", bound=Callable[..., Work | None])
_T = TypeVar("_T")


def deed(weight: int = 1) -> Callable[[_Deed], _Deed]:
    """Mark what may happen in a step, and how often.

    A deed takes three numbers from 0 to 11, which choose among what there is, and returns what is to be done; None
    when it cannot be at this moment.
    """

    def mark(method: _Deed) -> _Deed:
        method.weight = weight  # type: ignore[attr-defined]
        return method

    return mark


class World(RuleBasedStateMachine):
    """One example: a house whose databases begin empty."""

    house: House
    loop: asyncio.Runner
    seen: Counter[str]

    def __init__(self) -> None:
        super().__init__()
        self.workers: list[Worker] = []
        # Accepted jobs, and what was accepted under a key: the request's bytes and its job.
        self.jobs: list[str] = []
        self.bodies: dict[str, tuple[bytes, str]] = {}
        self.submitted = 0
        self.steps = 0
        # When each lease was renewed last, and the leases under which a worker may have said that it began.
        self.renewed: dict[Ref, datetime] = {}
        self.began: set[Ref] = set()
        self.references: dict[Owner, list[str]] = {owner: [] for owner in OWNERS}
        self.watcher = Watcher(self.house, self.house.capabilities)
        self.state: State
        self._looked: State | None = None
        self.broken = False

    def step(self, work: Work) -> None:
        """Do one thing, bring back what died of it, and check everything."""
        self.broken = True
        self.loop.run(self._step(work))
        self.broken = False

    async def _step(self, work: Work) -> None:
        self._looked = None
        try:
            await work
        except Gone:
            self._looked = None
        self.seen.update(await self.house.restart_dead())
        await self.hear()
        self.state = await self.watcher.check(self._looked)
        self._check_attempts()
        self.house.clock.advance(TICK)

    def _check_attempts(self) -> None:
        for job in self.state.jobs.values():
            if job.state in OPEN:
                starts = {ref for ref in self.began if ref[:2] == (job.job_id, job.stage)}
                if job.state is JobState.RUNNING:
                    starts.add(ref_of(job))
                assert job.current.attempt <= len(starts), "only what began is an attempt"

    async def look(self) -> State:
        """Return what is in the databases; the last thing that a deed does before it judges its work."""
        self._looked = await read_state(self.house)
        return self._looked

    async def hear(self) -> None:
        """Let messages that are on their way arrive at the workers."""
        for _ in range(6):
            await asyncio.sleep(0)
        for worker in self.workers:
            worker.take_in()

    # --- who and what -----------------------------------------------------------------------------------------------

    def router(self, pick: int) -> Running:
        """Return one of the routers."""
        return self.house.routers[pick % len(self.house.routers)]

    def assets(self, pick: int) -> Running:
        """Return one of the asset services."""
        return self.house.asset_services[pick % len(self.house.asset_services)]

    def job(self, pick: int) -> Job | None:
        """Return one of the accepted jobs as it was before the deed; None when there is none."""
        return self.state.jobs[self.jobs[pick % len(self.jobs)]] if self.jobs else None

    def lease(self, pick: int) -> tuple[Worker, Leased] | None:
        """Return a lease that a connected worker has, and the worker; None when there is none."""
        found = [(worker, each) for worker in self.workers if worker.connected for each in worker.leases.values()]
        return found[pick % len(found)] if found else None

    def old_lease(self, pick: int) -> Leased | None:
        """Return any lease that was ever given to anybody; None when there is none."""
        past = [leased for worker in self.workers for leased in worker.past]
        return past[pick % len(past)] if past else None

    # --- calls ------------------------------------------------------------------------------------------------------

    async def as_owner(self, running: Running, path: str, request: Any, owner: Owner) -> Any:
        """Call a method as one of the two owners."""
        return await running.call(path, request, self.house.caller(owner))

    async def as_service(self, running: Running, path: str, request: Any) -> Any:
        """Call a method as one of our services, such as the library."""
        return await running.call(path, request, self.house.caller(Owner("default", "library"), KeyKind.SERVICE))


async def at_once(calls: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Do things at the same moment and wait for all. Raises what the first of them raised that failed."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


async def only(message: Any) -> AsyncIterator[Any]:
    """Give one message, as a client that streams it."""
    yield message


def ref_of(job: Job) -> Ref:
    """Return the lease under which a job's current stage was last given away."""
    return job.job_id, job.stage, job.fence


def is_current(job: Job | None, ref: Ref, worker: Worker) -> bool:
    """Tell whether a report of this worker under this lease counts."""
    return job is not None and job.state in OPEN and ref_of(job) == ref and job.holder == worker.holder
