"""The load: submits the jobs of a schedule, repeats until answered, cancels, looks at what succeeded, saves some."""

from __future__ import annotations

import asyncio
import hashlib
import time
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

import grpc

from atelier.asset.v1 import asset_pb2
from atelier.library.v1 import library_service_pb2
from atelier.router.v1 import job_pb2
from atelier.router.v1 import router_service_pb2 as pb
from atelier.type.v1 import generation_pb2
from faults.clients import Calls, Owner, list_assets, turned
from faults.collect import read_blob
from faults.engine import prompt_of
from faults.evidence import AssetSight, Check, Evidence, Saved, Submission
from faults.progress import Progress
from faults.schedule import MODELS, JobPlan, Schedule
from faults.watchers import Watchers, state_of

# So many jobs are under way at once; the next is submitted when one has finished.
_WINDOW_SHARE = 0.4
_SUBMITTERS = 4
# Every so many jobs one is followed by itself, and the owners' listings are looked at.
_FOLLOWED = 6
_PEEP_EVERY = 20
# Every so many jobs that were seen to succeed one is saved, every second of those in both libraries at once.
_SAVE_EVERY = 2
_SAVE_PAUSE_S = 0.2


class Load:
    """Submits jobs and looks at them from outside."""

    def __init__(
        self, schedule: Schedule, owners: list[Owner], evidence: Evidence, progress: Progress, blobs: Path
    ) -> None:
        """Take the plan, the owners, where to note what happens, and the folder of the blobs."""
        self._schedule = schedule
        self._owners = {owner.name: owner for owner in owners}
        self._evidence = evidence
        self._progress = progress
        self._blobs = blobs
        self._calls = Calls(evidence.oddities)
        self._next = iter(schedule.jobs)
        self._checked: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.watchers = Watchers(evidence, self._calls, self._saw)

    async def run(self) -> None:
        """Submit every job, wait until each was seen at its end and was looked at. The caller has a deadline."""
        async with asyncio.TaskGroup() as group:
            for _ in range(_SUBMITTERS):
                group.create_task(self._submit_some())
        while not all(self._progress.is_finished(made.job_id) for made in self._evidence.submissions):
            await self._progress.moved()
        while self._tasks:
            await asyncio.gather(*self._tasks)

    async def close(self) -> None:
        """Stop what is still under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def peep(self) -> None:
        """Note every asset that the owners' listings show at this moment."""
        for number, owner in enumerate(self._owners.values()):
            assets = await list_assets(self._calls, owner, number)
            at = time.time()
            self._evidence.asset_sights.extend(
                AssetSight("listing", owner.name, asset.asset_id, asset.job_id, "listed", at) for asset in assets
            )

    async def look_last(self) -> None:
        """Note what the owners' listings show in the end."""
        for owner in self._owners.values():
            assets = await list_assets(self._calls, owner, 0)
            self._evidence.listed[owner.name] = [asset.asset_id for asset in assets]

    def _spawn(self, work: asyncio.Task[None]) -> None:
        self._tasks.add(work)
        work.add_done_callback(self._tasks.discard)

    async def _submit_some(self) -> None:
        window = max(4, int(len(self._schedule.jobs) * _WINDOW_SHARE))
        for job in self._next:
            while len(self._evidence.submissions) - self._finished() >= window:
                await self._progress.moved()
            await self._submit(job)

    def _finished(self) -> int:
        return sum(self._progress.is_finished(made.job_id) for made in self._evidence.submissions)

    async def _submit(self, job: JobPlan) -> None:
        owner = self._owners[job.owner]
        key = f"schedule-{self._schedule.seed}-{job.number}"
        request = _request(job, key)
        first = turned(owner.routers, job.number)
        ways = [first, first[::-1]] if job.twice else [first]
        replies = await asyncio.gather(
            *(
                self._calls.until_answered(
                    "GenerateContent", [partial(stub.GenerateContent, request) for stub in stubs]
                )
                for stubs in ways
            )
        )
        ids = [reply.job_id for reply in replies if reply is not None]
        self._progress.accepted()
        for job_id in dict.fromkeys(ids):
            self._evidence.submissions.append(Submission(job.number, job.owner, key, job_id, time.time()))
            if job.cancel:
                self._spawn(asyncio.create_task(self._cancel(job, job_id)))
            if job.number % _FOLLOWED == 0:
                self.watchers.follow(owner, job.number // _FOLLOWED, job_id)
        if job.number % _PEEP_EVERY == 0:
            self._spawn(asyncio.create_task(self.peep()))

    async def _cancel(self, job: JobPlan, job_id: str) -> None:
        while job.cancel == "running" and not self._progress.has_run(job_id):
            await self._progress.moved()
        request = pb.CancelJobRequest(job_id=job_id)
        stubs = turned(self._owners[job.owner].routers, job.number + 1)
        await self._calls.until_answered(
            "CancelJob",
            [partial(stub.CancelJob, request) for stub in stubs],
            # Too late: its outputs are being published, or it has ended.
            refusals=frozenset({grpc.StatusCode.FAILED_PRECONDITION}),
        )

    def _saw(self, job: job_pb2.Job, owner: Owner) -> None:
        state = state_of(job)
        self._progress.saw(job.job_id, job.version, state)
        if state == "succeeded" and job.job_id not in self._checked:
            self._checked.add(job.job_id)
            self._spawn(asyncio.create_task(self._check(job, owner)))

    async def _check(self, job: job_pb2.Job, owner: Owner) -> None:
        """Look at the assets of a job in the moment in which it was seen to succeed."""
        delivered = [output.asset_index for output in job.outputs if output.state == job_pb2.OUTPUT_STATE_DELIVERED]
        if not delivered:
            return
        assets = await list_assets(self._calls, owner, len(self._checked), job_id=job.job_id)
        broken = await asyncio.to_thread(lambda: [problem for asset in assets if (problem := self._problem(asset))])
        listed = [asset.asset_index for asset in assets]
        self._evidence.checks.append(Check(job.job_id, delivered, listed, broken, time.time()))
        number = len(self._evidence.checks)
        if number % _SAVE_EVERY == 0 and assets:
            ways = 2 if number // _SAVE_EVERY % 2 else 1
            saves = (self._save(owner, number + way, assets) for way in range(ways))
            for saved in await asyncio.gather(*saves):
                self._evidence.saved.extend(
                    Saved(owner.name, job.job_id, asset_id, item_id) for asset_id, item_id in saved.items()
                )

    async def _save(self, owner: Owner, first: int, assets: list[asset_pb2.Asset]) -> dict[str, str]:
        """Save assets, again until each has its item. Returns the items by asset. The caller has a deadline."""
        asset_ids = [asset.asset_id for asset in assets]
        request = library_service_pb2.SaveToLibraryRequest(asset_ids=asset_ids)
        ways = [partial(stub.SaveToLibrary, request) for stub in turned(owner.libraries, first)]
        while True:
            reply = await self._calls.until_answered("SaveToLibrary", ways)
            results = reply.results if reply else []
            items = {result.asset_id: result.item.item_id for result in results if result.HasField("item")}
            if len(items) == len(asset_ids):
                return items
            await asyncio.sleep(_SAVE_PAUSE_S)

    def _problem(self, asset: asset_pb2.Asset) -> str:
        """Return what is wrong with the bytes of an asset; empty when nothing is."""
        bucket, _, key = urlsplit(asset.url).path.removeprefix("/media/").partition("/")
        file = self._blobs / bucket / f"{unquote(key)}.blob"
        try:
            digest = hashlib.sha256(read_blob(file)[0]).hexdigest()
        except OSError as error:
            return f"index {asset.asset_index}: its bytes cannot be read: {error.strerror}"
        return "" if digest == asset.media.sha256 else f"index {asset.asset_index}: its bytes have another digest"


def _request(job: JobPlan, key: str) -> pb.GenerateContentRequest:
    is_video = job.kind == "video"
    return pb.GenerateContentRequest(
        prompt=prompt_of(job),
        model=MODELS[job.kind],
        format=generation_pb2.FORMAT_VIDEO if is_video else generation_pb2.FORMAT_IMAGE,
        quantity=job.quantity,
        seed=job.number,
        enhance_prompt=job.kind == "two_stage",
        enhancement_only=job.kind == "enhancement",
        idempotency_key=key,
    )
