"""What schedules of faults have found wrong between two routers; each test names the seed that showed it first."""

from __future__ import annotations

import asyncio

from atelier.router.v1 import job_pb2
from tests.router_service.support import Router

Replicas = tuple[Router, Router]
TRIES = 12


async def test_one_key_at_both_routers_at_once_is_one_job_and_no_fault(replicas: Replicas) -> None:
    """Seed 2: the router that came second answered INTERNAL, because the key's row was there already."""
    for number in range(TRIES):
        ways = (*replicas, *replicas)
        replies = await asyncio.gather(*(router.submit(idempotency_key=f"key-{number}") for router in ways))
        assert len({reply.job_id for reply in replies}) == 1


async def test_a_job_is_settled_on_postgres(replicas: Replicas) -> None:
    """Seed 1: no settlement was sent, because the job was locked in a transaction that only reads."""
    here, there = replicas
    one = await there.worker()
    accepted = await here.submit()
    assert await one.deliver(await one.take()) == "recorded"
    assert (await here.ended(accepted.job_id)).state == job_pb2.JOB_STATE_SUCCEEDED
