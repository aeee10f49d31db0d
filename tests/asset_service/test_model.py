"""Random lives of a workspace against a small model of it: what is seen, and which bytes are kept, after every step."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import grpc
import pytest

from asset_service.domain import MAX_HOLD_TTL
from service_kit.errors import AtelierError
from service_kit.identity import Owner
from service_kit.ids import asset_id, new_id
from service_kit.rpc_errors import from_rpc_error
from tests.asset_service.harness import Finished, Harness
from tests.asset_service.pictures import png

STEPS = 45
EXPIRY = timedelta(days=7)
FOR_EVER = datetime.max


@dataclass
class Job:
    job_id: str = field(default_factory=new_id)
    staged: dict[int, list[Finished]] = field(default_factory=dict)
    answer: tuple[list[int], list[int]] | None = None

    @property
    def holder(self) -> str:
        return f"job:{self.job_id}"


@dataclass
class Known:
    sha256: str
    expires_at: datetime
    seen: bool = True


class World:
    """A workspace of one owner, and what it should be."""

    def __init__(self, harness: Harness, seed: int) -> None:
        self.harness = harness
        self.random = random.Random(seed)
        self.owner = Owner("default", f"owner-{seed}")
        self.jobs = [Job() for _ in range(3)]
        self.assets: dict[str, Known] = {}
        self.gone: set[str] = set()
        self.holds: dict[tuple[str, str], datetime] = {}

    @property
    def now(self) -> datetime:
        return self.harness.clock.now().replace(tzinfo=None)

    def held(self, asset: str) -> bool:
        return any(held == asset and end > self.now for (_, held), end in self.holds.items())

    def remove(self, asset: str) -> None:
        self.assets[asset].seen = False

    async def step(self) -> None:
        name = self.random.choice(
            ["deliver", "deliver", "deliver", "settle", "discard", "hold", "confirm", "release", "wait", "save"]
        )
        try:
            await getattr(self, name)()
        except grpc.aio.AioRpcError as error:
            raise RuntimeError(f"{name} was refused") from from_rpc_error(error)
        await self.harness.service.expiry.look()
        self.settle_down()
        await self.compare()

    def settle_down(self) -> None:
        """Do in the model what a look does."""
        for asset, known in list(self.assets.items()):
            if known.seen and known.expires_at <= self.now:
                known.seen = False
            if not known.seen and not self.held(asset):
                del self.assets[asset]
                self.gone.add(asset)
        self.holds = {
            (holder, asset): end
            for (holder, asset), end in self.holds.items()
            if asset not in self.gone and end > self.now - MAX_HOLD_TTL
        }

    async def compare(self) -> None:
        listed = {asset.asset_id for asset in await self.harness.listed(self.owner, page_size=200)}
        assert listed == {asset for asset, known in self.assets.items() if known.seen}
        prefix = f"default/{self.owner.owner_id}/"
        kept = Counter([blob.sha256 for blob in await self.harness.blobs() if blob.key.startswith(prefix)])
        staged = [
            finished.media.sha256
            for job in self.jobs
            if job.answer is None
            for some in job.staged.values()
            for finished in some
        ]
        assert kept == Counter(staged + [known.sha256 for known in self.assets.values()])

    async def refused(self, call: object) -> AtelierError | None:
        try:
            await call  # type: ignore[misc]
        except grpc.aio.AioRpcError as error:
            return from_rpc_error(error)
        return None

    async def deliver(self) -> None:
        job, index = self.random.choice(self.jobs), self.random.randrange(3)
        lease = self.harness.lease(job.job_id, owner=self.owner, fence=self.random.randint(1, 3))
        data = png(seed=self.random.randrange(4))
        if job.answer is not None:
            error = await self.refused(self.harness.deliver(lease, data, index))
            assert error is not None
            return
        finished = await self.harness.deliver(lease, data, index)
        known = job.staged.setdefault(index, [])
        if finished.receipt not in [other.receipt for other in known]:
            known.append(finished)

    async def settle(self) -> None:
        job = self.random.choice(self.jobs)
        winners = {index: self.random.choice(some) for index, some in job.staged.items() if self.random.random() < 0.8}
        reply = await self.harness.settle(
            job.job_id, {index: finished.receipt for index, finished in winners.items()}, self.owner
        )
        answer = (list(reply.published), list(reply.lost))
        if job.answer is not None:
            assert answer == job.answer
            return
        assert answer == (sorted(winners), [])
        job.answer = answer
        for index, finished in winners.items():
            asset = asset_id(job.job_id, index)
            if asset not in self.gone:
                self.assets[asset] = Known(finished.media.sha256, self.now + EXPIRY)
        self.holds = {key: end for key, end in self.holds.items() if key[0] != job.holder}
        if self.random.random() < 0.5:
            self.jobs.append(Job())

    def any_asset(self) -> str:
        job, index = self.random.choice(self.jobs), self.random.randrange(3)
        return asset_id(job.job_id, index)

    async def discard(self) -> None:
        asset = self.any_asset()
        staged = any(
            asset_id(job.job_id, index) == asset for job in self.jobs if job.answer is None for index in job.staged
        )
        error = await self.refused(self.harness.discard(asset, self.owner))
        known = asset in self.assets or asset in self.gone
        assert (error is None) == (known or staged)
        if asset in self.assets:
            self.remove(asset)
        elif staged:
            self.gone.add(asset)

    async def hold(self) -> None:
        await self._hold(timedelta(minutes=self.random.choice([1, 30])))

    async def confirm(self) -> None:
        await self._hold(None)

    async def _hold(self, ttl: timedelta | None) -> None:
        job, asset = self.random.choice(self.jobs), self.any_asset()
        holder = job.holder if ttl is None else self.random.choice([job.holder, "save:1", "save:2"])
        holder = f"{self.owner.owner_id}:{holder}" if holder.startswith("save") else holder
        call = (
            self.harness.confirm(holder, asset, owner=self.owner)
            if ttl is None
            else self.harness.hold(holder, asset, owner=self.owner, ttl=ttl)
        )
        error = await self.refused(call)
        settled = holder == job.holder and job.answer is not None
        known = self.assets.get(asset)
        may = known is not None and (known.seen or (holder, asset) in self.holds)
        assert (error is None) == (may and not settled)
        if error is None and self.holds.get((holder, asset)) != FOR_EVER:
            self.holds[holder, asset] = FOR_EVER if ttl is None else self.now + ttl

    async def release(self) -> None:
        if not self.holds:
            return
        holder, _ = self.random.choice(sorted(self.holds))
        await self.harness.release(holder)
        self.holds = {key: end for key, end in self.holds.items() if key[0] != holder}

    async def wait(self) -> None:
        self.harness.clock.advance(
            self.random.choice([timedelta(seconds=50), timedelta(minutes=20), timedelta(days=2), timedelta(days=4)])
        )

    async def save(self) -> None:
        asset = self.any_asset()
        version = self.random.randint(1, 3)
        await self.harness.mark_saved(asset, f"item-{version}", version, self.owner)


@pytest.mark.parametrize("seed", range(3))
async def test_a_workspace_is_what_its_history_makes_it(harness: Harness, seed: int) -> None:
    world = World(harness, seed)
    for _ in range(STEPS):
        await world.step()
