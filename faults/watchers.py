"""Watchers: they note every job and every asset that they are told of, and come back with their cursor when cut off."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine

import grpc

from atelier.asset.v1 import asset_pb2, asset_service_pb2
from atelier.router.v1 import job_pb2
from atelier.router.v1 import router_service_pb2 as pb
from faults.audits.sights import asset_watchers, job_watchers
from faults.clients import Calls, Owner
from faults.evidence import AssetSight, Evidence, Sight
from service_kit.errors import AtelierError

_PAUSE_S = 0.05
FINAL = frozenset({"succeeded", "failed", "cancelled"})

OnSight = Callable[[job_pb2.Job, Owner], None]
_Watch = Callable[[str, Owner, int, asyncio.Event], Coroutine[None, None, None]]


def state_of(job: job_pb2.Job) -> str:
    """Return the state as results write it, such as `running`."""
    return job_pb2.JobState.Name(job.state).removeprefix("JOB_STATE_").lower()


class Watchers:
    """All watchers of one run. They share the evidence, and tell of each sight at once."""

    def __init__(self, evidence: Evidence, calls: Calls, on_sight: OnSight) -> None:
        """Note sights in the evidence; `on_sight` hears of each."""
        self._evidence = evidence
        self._calls = calls
        self._on_sight = on_sight
        self._tasks: list[asyncio.Task[None]] = []
        self._opened: list[asyncio.Event] = []

    async def begin(self, owners: list[Owner]) -> None:
        """Start a watcher of jobs and one of assets for each owner at each replica; return when all have begun."""
        for owner in owners:
            for number, name in enumerate(job_watchers(owner.name)):
                self._start(self._watch_jobs, name, owner, number)
            for number, name in enumerate(asset_watchers(owner.name)):
                self._start(self._watch_assets, name, owner, number)
        await asyncio.gather(*(opened.wait() for opened in self._opened))

    def follow(self, owner: Owner, number: int, job_id: str) -> None:
        """Follow one job to its end at one router."""
        self._tasks.append(asyncio.create_task(self._watch_job(f"job-{job_id}-{number}", owner, number, job_id)))

    async def end(self) -> None:
        """Stop watching."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, watch: _Watch, name: str, owner: Owner, number: int) -> None:
        opened = asyncio.Event()
        self._opened.append(opened)
        self._tasks.append(asyncio.create_task(watch(name, owner, number, opened), name=name))

    def _note(self, name: str, owner: Owner, job: job_pb2.Job, how: str) -> None:
        sight = Sight(name, owner.name, job.job_id, job.version, state_of(job), how, time.time())
        self._evidence.sights.append(sight)
        self._on_sight(job, owner)

    async def _watch_jobs(self, name: str, owner: Owner, number: int, opened: asyncio.Event) -> None:
        cursor = ""
        while True:
            try:
                call = owner.routers[number].WatchJobs(pb.WatchJobsRequest(after=cursor))
                async for event in call:
                    if event.HasField("snapshot"):
                        for job in event.snapshot.jobs:
                            self._note(name, owner, job, "snapshot again" if cursor else "snapshot")
                    elif event.HasField("state"):
                        self._note(name, owner, event.state, "state")
                    cursor = event.cursor or cursor
                    opened.set()
            except (grpc.aio.AioRpcError, AtelierError) as error:
                self._calls.note("WatchJobs", error)
            await asyncio.sleep(_PAUSE_S)

    async def _watch_job(self, name: str, owner: Owner, number: int, job_id: str) -> None:
        cursor = ""
        while True:
            try:
                async for event in owner.routers[number].WatchJob(pb.WatchJobRequest(job_id=job_id, after=cursor)):
                    cursor_before, cursor = cursor, event.cursor or cursor
                    if not event.HasField("snapshot") and not event.HasField("state"):
                        continue
                    is_snapshot = event.HasField("snapshot")
                    job = event.snapshot if is_snapshot else event.state
                    how = ("snapshot again" if cursor_before else "snapshot") if is_snapshot else "state"
                    self._note(name, owner, job, how)
                    if state_of(job) in FINAL:
                        return
            except (grpc.aio.AioRpcError, AtelierError) as error:
                self._calls.note("WatchJob", error)
            await asyncio.sleep(_PAUSE_S)

    async def _watch_assets(self, name: str, owner: Owner, number: int, opened: asyncio.Event) -> None:
        cursor = ""
        while True:
            try:
                call = owner.assets[number].WatchAssets(asset_service_pb2.WatchAssetsRequest(after=cursor))
                async for event in call:
                    kind = event.WhichOneof("event") or ""
                    many = event.snapshot.assets if kind == "snapshot" else [getattr(event, kind)] if kind else []
                    how = "snapshot again" if kind == "snapshot" and cursor else kind
                    for asset in many:
                        self._note_asset(name, owner, asset, how)
                    cursor = event.cursor or cursor
                    opened.set()
            except (grpc.aio.AioRpcError, AtelierError) as error:
                self._calls.note("WatchAssets", error)
            await asyncio.sleep(_PAUSE_S)

    def _note_asset(self, name: str, owner: Owner, asset: asset_pb2.Asset, how: str) -> None:
        sight = AssetSight(name, owner.name, asset.asset_id, asset.job_id, how, time.time())
        self._evidence.asset_sights.append(sight)
