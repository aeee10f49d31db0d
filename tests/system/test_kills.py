"""Whatever is killed with SIGKILL while a batch of six is made: six assets in the end, one state, nothing staged."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import pytest

from atelier.router.v1 import job_pb2
from service_kit.ids import asset_id
from tests.support.processes import Client, Processes, running

SIX = 6
STEPS = 6

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
async def test_a_worker_that_is_killed_at_a_random_step_loses_nothing(tmp_path: Path, seed: int) -> None:
    step = random.Random(seed).randrange(1, SIX * STEPS)
    async with running(tmp_path) as (processes, client):
        await processes.start("atelier_worker")
        job_id = await client.submit(SIX)
        await kill_worker_at(processes, client, job_id, step)
        assert await client.workspace() == [], "something staged is visible"
        await processes.start("atelier_worker")
        await assert_six_assets(client, job_id)


async def kill_worker_at(processes: Processes, client: Client, job_id: str, step: int) -> None:
    """Kill the worker as soon as it has told of this many steps in all."""
    async for event in client.watch(job_id):
        if event.HasField("progress") and event.progress.asset_index * STEPS + event.progress.step >= step:
            break
    await processes.kill("atelier_worker")


@pytest.mark.parametrize("point", ROUTER_POINTS)
async def test_a_router_that_is_killed_between_two_steps_loses_nothing(tmp_path: Path, point: str) -> None:
    async with running(tmp_path) as (processes, client):
        await processes.kill("router_service")
        await processes.start("router_service", crash_point=point)
        await processes.start("atelier_worker")
        job_id = await submit_through_crash(processes, client)
        await assert_six_assets(client, job_id)


async def submit_through_crash(processes: Processes, client: Client) -> str:
    """Submit while the armed router still lives, start it again when it has killed itself, and return the job's id."""
    submitting = asyncio.create_task(client.submit(SIX))
    assert await processes.died("router_service") == -9
    await processes.start("router_service")
    return await submitting


@pytest.mark.parametrize("point", ASSET_POINTS)
async def test_an_asset_service_that_is_killed_between_two_steps_loses_nothing(tmp_path: Path, point: str) -> None:
    async with running(tmp_path) as (processes, client):
        await processes.kill("asset_service")
        await processes.start("asset_service", crash_point=point)
        await processes.start("atelier_worker")
        job_id = await client.submit(SIX)
        assert await processes.died("asset_service") == -9
        await processes.start("asset_service")
        await assert_six_assets(client, job_id)


@pytest.mark.parametrize("point", WORKER_POINTS)
async def test_a_worker_that_is_killed_between_two_steps_loses_nothing(tmp_path: Path, point: str) -> None:
    async with running(tmp_path) as (processes, client):
        await processes.start("atelier_worker", crash_point=point)
        job_id = await client.submit(SIX)
        assert await processes.died("atelier_worker") == -9
        await processes.start("atelier_worker")
        await assert_six_assets(client, job_id)
