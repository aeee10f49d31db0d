"""Whatever is killed with SIGKILL while a batch of six is made: six assets in the end, one state, nothing staged.

All tests share one system, in which each submits a batch of its own; what died is started again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
import pytest_asyncio

from atelier.identity.v1 import identity_service_pb2 as identity_pb
from atelier.router.v1 import job_pb2, router_service_pb2
from service_kit.ids import asset_id
from service_kit.rpc_errors import from_rpc_error
from tests.support.processes import Client, Processes, running

pytestmark = pytest.mark.asyncio(loop_scope="module")

SIX = 6
READY_WITHIN_S = 30
STEPS = 6
RECORDED = {job_pb2.JOB_STATE_PUBLISHING, job_pb2.JOB_STATE_SUCCEEDED}

# At least one at each commit and each send of recording and settling, and what leads to them.
ROUTER_POINTS = [
    "router.admit.committed",
    "router.lease.committed",
    "router.record.before_commit",
    "router.record.committed",
    "router.record.acknowledged",
    "router.settle.sending",
    "router.settle.answered",
    "router.settle.committed",
]
ASSET_POINTS = [
    "asset.upload.started:3",
    "asset.upload.finished.blob:2",
    "asset.upload.finished:4",
    "asset.settle.before_commit",
    "asset.settle.committed",
]
WORKER_POINTS = [
    "worker.lease.acked",
    "worker.engine.delivered:2",
    "worker.upload.finished:3",
    "worker.outcome.spooled",
    "worker.outcome.sent",
]


class System:
    """A router, an asset service and a worker, and a client of them."""

    def __init__(self, processes: Processes, client: Client) -> None:
        self.client = client
        self._processes = processes
        self._armed: set[str] = set()
        self._batches = 0

    async def have(self, *parts: str) -> None:
        """Have these parts run, none of them about to kill itself."""
        for part in parts:
            if part in self._armed or not self._processes.runs(part):
                await self.start(part)

    async def start(self, part: str, *, crash_point: str = "") -> None:
        """Start a part anew, to kill itself at a point if one is given."""
        await self.kill(part)
        self._armed.discard(part)
        if crash_point:
            self._armed.add(part)
        await self._processes.start(part, crash_point=crash_point)

    async def kill(self, part: str) -> None:
        """Kill a part that runs."""
        if self._processes.runs(part):
            await self._processes.kill(part)

    async def killed_itself(self, part: str) -> None:
        """Wait until an armed part is dead, and start it again."""
        assert await self._processes.died(part) == -9
        await self.start(part)

    async def submit(self) -> str:
        """Submit a batch of six. Returns the job's id."""
        self._batches += 1
        return await self.client.submit(SIX, key=f"batch {self._batches}")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """Give a system; a test says which of its parts must run."""
    async with running(tmp_path_factory.mktemp("system")) as (processes, client):
        yield System(processes, client)


async def assert_six_assets(client: Client, job_id: str) -> None:
    """Check the end of the job: one state, six assets, each once, and every change seen once and in order."""
    job, versions = await client.ended(job_id)
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED, job
    assert job.delivered == SIX
    assert versions == sorted(set(versions)), "a change was told twice or out of order"
    assets = await client.workspace(job_id)
    assert sorted(asset.asset_index for asset in assets) == list(range(SIX))
    assert {asset.asset_id for asset in assets} == {asset_id(job_id, index) for index in range(SIX)}
    assert {asset.provenance.seed for asset in assets} == {1 + index for index in range(SIX)}


@pytest.mark.parametrize("seed", range(20))
async def test_a_worker_that_is_killed_at_a_random_step_loses_nothing(system: System, seed: int) -> None:
    step = random.Random(seed).randrange(1, SIX * STEPS)
    await system.have("asset_service", "router_service", "atelier_worker")
    job_id = await system.submit()
    await kill_worker_at(system, job_id, step)
    if await system.client.workspace(job_id):
        # The worker was done before the signal came: what was recorded is published without it.
        reply = await system.client.jobs.GetJob(router_service_pb2.GetJobRequest(job_id=job_id))
        assert reply.job.state in RECORDED, "something staged is visible"
    await system.start("atelier_worker")
    await assert_six_assets(system.client, job_id)


async def kill_worker_at(system: System, job_id: str, step: int) -> None:
    """Kill the worker as soon as it has told of this many steps in all."""
    async for event in system.client.watch(job_id):
        if event.HasField("progress") and event.progress.asset_index * STEPS + event.progress.step >= step:
            break
    await system.kill("atelier_worker")


@pytest.mark.parametrize("point", ROUTER_POINTS)
async def test_a_router_that_is_killed_between_two_steps_loses_nothing(system: System, point: str) -> None:
    await system.have("asset_service", "atelier_worker")
    await system.start("router_service", crash_point=point)
    submitting = asyncio.create_task(system.submit())
    await system.killed_itself("router_service")
    await assert_six_assets(system.client, await submitting)


@pytest.mark.parametrize("point", ASSET_POINTS)
async def test_an_asset_service_that_is_killed_between_two_steps_loses_nothing(system: System, point: str) -> None:
    await system.have("router_service", "atelier_worker")
    await system.start("asset_service", crash_point=point)
    job_id = await system.submit()
    await system.killed_itself("asset_service")
    await assert_six_assets(system.client, job_id)


@pytest.mark.parametrize("point", WORKER_POINTS)
async def test_a_worker_that_is_killed_between_two_steps_loses_nothing(system: System, point: str) -> None:
    await system.have("asset_service", "router_service")
    await system.start("atelier_worker", crash_point=point)
    job_id = await system.submit()
    await system.killed_itself("atelier_worker")
    await assert_six_assets(system.client, job_id)


async def test_a_router_that_is_killed_while_it_erases_takes_nothing_more_and_goes_on(system: System) -> None:
    await system.have("asset_service", "router_service")
    secret = (await system.client.keys.CreateKey(identity_pb.CreateKeyRequest(owner_id="ann"))).secret
    await system.start("router_service", crash_point="router.erase.marked")
    erase = router_service_pb2.EraseOwnerRequest(owner_id="ann")
    async with asyncio.timeout(READY_WITHIN_S):
        with pytest.raises(grpc.aio.AioRpcError):
            while True:
                await system.client.jobs.EraseOwner(erase, wait_for_ready=True)
    await system.killed_itself("router_service")

    # It was committed that the owner is erased; its key is still there until the erasure is repeated.
    again = identity_pb.CreateKeyRequest(owner_id="ann")
    assert await refusal(lambda: system.client.keys.CreateKey(again)) == "owner_erased"
    assert (await system.client.jobs.EraseOwner(erase)).done
    exchange = identity_pb.ExchangeKeyRequest(secret=secret)
    assert await refusal(lambda: system.client.keys.ExchangeKey(exchange)) == "invalid_identity"


async def refusal(call: Callable[[], Awaitable[Any]]) -> str:
    """Return why a call is refused, as soon as somebody answers."""
    async with asyncio.timeout(READY_WITHIN_S):
        while True:
            try:
                await call()
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    return from_rpc_error(error).reason.value
                await asyncio.sleep(0.05)
            else:
                raise LookupError("the call was not refused")
