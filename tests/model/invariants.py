"""What is true of router and asset service after every step, whatever happened: the sentences of the protocol.

`Watcher` remembers what it saw before, so that it also sees what must never go back.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from asset_service.domain import AssetState, UploadState
from asset_service.storage import tables as asset_tables
from router_service.domain import FINAL, Job, JobState, OutputState, StageState
from router_service.storage import Storage
from router_service.storage import tables as router_tables
from router_service.storage.tables import NEVER
from service_kit.capabilities import Capabilities
from service_kit.database import Database
from service_kit.identity import Owner
from service_kit.ids import asset_id
from tests.model.house import MAX_ATTEMPTS, MAX_LEASES, House

OWNERS = (Owner("default", "ann"), Owner("default", "bob"))
_Q, _R, _P = JobState.QUEUED, JobState.RUNNING, JobState.PUBLISHING
_S, _F, _C = JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED
_LEGAL = {
    (_Q, _R), (_Q, _Q), (_Q, _P), (_Q, _S), (_Q, _F), (_Q, _C),
    (_R, _Q), (_R, _P), (_R, _S), (_R, _F), (_R, _C),
    (_P, _S), (_P, _F),
}  # fmt: skip
_OPEN = (_Q, _R)
_GONE = {AssetState.HIDDEN.value, AssetState.DELETING.value, AssetState.REMOVED.value}


@dataclass
class State:
    """Both databases at one moment. Rows are named tuples of their tables' columns."""

    jobs: dict[str, Job]
    queue: dict[str, Any]
    leases: dict[str, Any]
    outbox: dict[tuple[str, str], Any]
    outcomes: list[Any]
    assets: dict[str, Any]
    uploads: dict[str, Any]
    settlements: dict[str, Any]
    holds: list[Any]

    def entry(self, kind: str, job_id: str) -> Any | None:
        """Return what the outbox has to tell about a job, or None."""
        return self.outbox.get((kind, job_id))


async def read_state(house: House) -> State:
    """Read what is in the databases."""
    router, asset = router_tables, asset_tables
    jobs, queue, leases, outbox, outcomes = await house.rows(
        house.router_db, router.jobs, router.queue, router.leases, router.outbox, router.outcomes
    )
    assets, uploads, settlements, holds = await house.rows(
        house.asset_db, asset.workspace_assets, asset.uploads, asset.settlements, asset.holds
    )
    return State(
        jobs={row.job_id: row.document for row in jobs},
        queue={row.job_id: row for row in queue},
        leases={row.job_id: row for row in leases},
        outbox={(row.kind, row.job_id): row for row in outbox},
        outcomes=outcomes,
        assets={row.asset_id: row for row in assets},
        uploads={row.upload_id: row for row in uploads},
        settlements={row.job_id: row for row in settlements},
        holds=holds,
    )


async def new_events(db: Database, positions: dict[Owner, int]) -> list[tuple[int, Job]]:
    """Return what the watchers of each owner are told after the positions, which move on."""
    told = []
    async with Storage(db).read() as tx:
        for owner in OWNERS:
            for event in await tx.events.find_after(positions[owner], owner=owner, limit=1000):
                assert event.position > positions[owner], "positions grow"
                positions[owner] = event.position
                told.append((event.position, event.job))
    return told


@dataclass
class Watcher:
    """Checks each state against the rules and against what it saw before."""

    house: House
    capabilities: Capabilities
    positions: dict[Owner, int] = field(default_factory=lambda: dict.fromkeys(OWNERS, 0))
    history: dict[str, list[Job]] = field(default_factory=lambda: defaultdict(list))
    settlements: dict[str, Any] = field(default_factory=dict)
    uploads: dict[str, str] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    digests: dict[tuple[str, int, int], set[str]] = field(default_factory=lambda: defaultdict(set))
    accepted: set[str] = field(default_factory=set)
    # Keys whose blobs the store has lost.
    lost: set[str] = field(default_factory=set)

    async def check(self, looked: State | None = None) -> State:
        """Check what was read a moment ago, or what is read now. Returns it."""
        state = looked or await read_state(self.house)
        for _, job in await new_events(self.house.router_db, self.positions):
            self._told(job)
        assert set(state.jobs) == set(self.history), "every job was told, and none is lost"
        assert self.accepted <= set(state.jobs), "an accepted job is there"
        for job_id, job in state.jobs.items():
            assert without_attempts(self.history[job_id][-1]) == without_attempts(job), "watchers see the latest state"
            _check_job(job)
            _check_rows(job, state)
        _check_outcomes(self.history, state)
        self._check_settlements(state)
        self._check_uploads(state)
        self._check_assets(state)
        self._check_blobs(state)
        self._check_holds(state)
        return state

    def _told(self, after: Job) -> None:
        history = self.history[after.job_id]
        if not history:
            assert (after.version, after.state, after.fence, after.leases) == (1, _Q, 0, 0)
        else:
            _check_change(history[-1], after)
        history.append(after)

    def _check_settlements(self, state: State) -> None:
        for job_id, first in self.settlements.items():
            assert state.settlements.get(job_id) == first, "a settlement is written once and never changed"
        self.settlements = dict(state.settlements)
        for job_id, row in state.settlements.items():
            job = state.jobs[job_id]
            assert job.state not in _OPEN, "only a job that is recorded or over is settled"
            assert (row.tenant_id, row.owner_id) == (job.owner.tenant_id, job.owner.owner_id)
            promised = {output.asset_index for output in self._recorded(job_id) if output.receipt}
            assert set(row.published) | set(row.lost) == promised
            assert not set(row.published) & set(row.lost)

    def _recorded(self, job_id: str) -> Any:
        """Return the outputs of a job as its last outcome left them."""
        return next((job.outputs for job in reversed(self.history[job_id]) if job.state is _P), ())

    def _check_uploads(self, state: State) -> None:
        for upload_id, job_id in self.uploads.items():
            assert upload_id in state.uploads or job_id in state.settlements, "an unsettled job keeps its uploads"
        for upload_id, row in state.uploads.items():
            if row.job_id is None:
                continue
            self.uploads[upload_id] = row.job_id
            if row.job_id not in state.settlements:
                assert row.state != UploadState.DELETING.value, "an unsettled job's upload is never deleted"
                if row.state == UploadState.STAGED.value and row.key not in self.lost:
                    assert row.key in self.house.blobs.taken(), "what has a receipt is there"
            else:
                assert row.state == UploadState.DELETING.value, "a settled job has no upload left that could win"

    def _check_assets(self, state: State) -> None:
        for asset, row in state.assets.items():
            if row.state in _GONE:
                self.gone.add(asset)
            else:
                assert asset not in self.gone, "what was discarded or has expired never comes back"
            if row.job_id is None or row.state in _GONE:
                continue
            job = state.jobs[row.job_id]
            assert job.state in (_P, _S), f"the asset of a job that is {job.state.value} is visible"
            assert row.job_id in state.settlements
            output = job.outputs[row.asset_index]
            assert output.state is OutputState.DELIVERED
            receipt = self.capabilities.verify_receipt(output.receipt)
            assert (row.key, row.generation) == (receipt.key, receipt.generation), "the winner is what was recorded"
            assert row.sha256 in self.digests[row.job_id, receipt.fence, row.asset_index], "with the worker's bytes"
            assert asset == asset_id(row.job_id, row.asset_index)
        for job_id, job in state.jobs.items():
            if job.state is not _S:
                continue
            for output in job.outputs:
                if output.state is OutputState.DELIVERED:
                    assert asset_id(job_id, output.asset_index) in state.assets, "who sees SUCCEEDED sees the assets"

    def _check_blobs(self, state: State) -> None:
        keys = self.house.blobs.taken()
        of_assets = Counter(row.key for row in state.assets.values() if row.key is not None)
        assert all(count == 1 for count in of_assets.values())
        owned = set(of_assets) | {row.key for row in state.uploads.values()}
        assert keys <= owned, "no blob is without a row"
        for row in state.assets.values():
            if row.state not in (AssetState.DELETING.value, AssetState.REMOVED.value):
                assert row.key in keys, "no asset is without its blob"

    def _check_holds(self, state: State) -> None:
        for row in state.holds:
            kind, _, job_id = row.holder.partition(":")
            assert kind != "job" or job_id not in state.settlements, "a settlement releases the holds of its job"
        for job_id in state.leases:
            for reference in state.jobs[job_id].references:
                assert reference.key in self.house.blobs.taken(), "the references of a running job are there"
                mine = [
                    row for row in state.holds if (row.holder, row.asset_id) == (f"job:{job_id}", reference.asset_id)
                ]
                assert [row.expires_at for row in mine] == [None], (
                    "nothing runs before its references are held for good"
                )


def without_attempts(job: Job) -> object:
    """Return what watchers are told of a job: all but what an acknowledgement counts."""
    return [(stage.kind, stage.state) for stage in job.stages], job.state, job.version, job.fence, job.outputs


def _check_change(before: Job, after: Job) -> None:
    """Check one step of a job's life, as its watchers see it."""
    step = (before.state, after.state)
    assert after.version == before.version + 1, "versions have no gaps"
    assert before.state not in FINAL, f"terminal is terminal: {before.state} became {after.state}"
    assert step in _LEGAL, f"{before.state} cannot become {after.state}"
    same = ("job_id", "owner", "prompt", "settings", "references", "priority", "created_at", "deadline_at")
    assert all(getattr(before, name) == getattr(after, name) for name in same)
    grown = after.fence - before.fence
    if step == (_Q, _R):
        if grown == 0:
            assert (after.holder, after.leases) == (before.holder, before.leases), "only who had it keeps it"
        else:
            assert (grown, after.leases) == (1, before.leases + 1), "the fence grows at every lease"
    elif step == (_R, _Q):
        assert grown in (0, 1)
        assert grown or before.stage == after.stage, "a lost lease moves nothing"
    elif before.state is _P:
        assert grown == 0, "the fence has nothing to tell any more"
    else:
        assert grown == 1, "the fence grows at every recorded outcome and whenever a job ends"
    assert after.stage in (before.stage, before.stage + 1)
    if after.stage != before.stage:
        assert after.state is _Q
        assert after.current.attempt == 0, "the next stage begins with its first attempt"
    if before.state is _P:
        kept = [(output.asset_index, output.receipt) for output in before.outputs]
        assert kept == [(output.asset_index, output.receipt) for output in after.outputs]


def _check_job(job: Job) -> None:
    """Check what is true of a job in each state."""
    assert all(stage.attempt <= MAX_ATTEMPTS for stage in job.stages), "attempts are capped"
    assert job.leases <= MAX_LEASES, "leases are capped"
    assert [output.asset_index for output in job.outputs] == list(range(len(job.outputs)))
    if job.state is _S:
        assert job.delivered or job.enhancement_only
    elif job.state is _F:
        assert job.failure is not None
        assert job.delivered == 0
    elif job.state is _C:
        assert job.delivered == 0
        assert not any(output.receipt for output in job.outputs)
    if job.state in _OPEN:
        assert job.current.state is (StageState.QUEUED if job.state is _Q else StageState.RUNNING)
    else:
        assert all(output.state is not OutputState.PENDING for output in job.outputs)


def _check_rows(job: Job, state: State) -> None:
    """Check that a job is where its state says: waiting, running, or on its way to the asset service."""
    waiting, lease = state.queue.get(job.job_id), state.leases.get(job.job_id)
    assert (waiting is not None) == (job.state is _Q), "waiting stages are rows of the queue"
    assert (lease is not None) == (job.state is _R), "running stages are rows of the leases"
    confirming, settling = state.entry("confirm", job.job_id), state.entry("settle", job.job_id)
    if waiting is not None:
        assert (waiting.stage, waiting.order_key) == (job.stage, job.created_at), "the original order is kept"
        assert waiting.available_at < NEVER or confirming is not None, "what waits for its references is confirmed"
    if lease is not None:
        assert (lease.stage, lease.fence, lease.holder) == (job.stage, job.fence, job.holder)
        assert confirming is None, "nothing is leased before the confirmation"
    if job.state in _OPEN:
        assert settling is None
    elif job.state is _P:
        assert settling is not None, "what is recorded is settled"
    elif not job.outputs and not job.references:
        assert settling is None, "of what has neither outputs nor references there is nothing to settle"
        assert job.job_id not in state.settlements
        assert not any(row.job_id == job.job_id for row in state.uploads.values()), "and nothing is uploaded for it"
        assert not any(row.holder == f"job:{job.job_id}" for row in state.holds), "and nothing is held"
    else:
        assert settling is not None or job.job_id in state.settlements, "however a job ends, it is settled"


def _check_outcomes(history: dict[str, list[Job]], state: State) -> None:
    """Check that one outcome at most is recorded under a fence, and that each moved its job."""
    fences = Counter((row.job_id, row.fence) for row in state.outcomes)
    assert all(count == 1 for count in fences.values()), "an outcome was recorded twice"
    for row in state.outcomes:
        moved = [job for job in history[row.job_id] if job.fence == row.fence + 1]
        assert moved, "a recorded outcome moves its job"
    for job_id, jobs in history.items():
        for before, after in pairwise(jobs):
            # A stage whose worker was lost too often may be left out, if the request says so.
            skipped = after.stages[before.stage].state is StageState.FAILED
            moved_on = after.state is _P or (after.state is _Q and after.fence > before.fence and not skipped)
            if before.state in _OPEN and moved_on:
                assert fences[job_id, before.fence] == 1, "only an outcome moves a job on"
