"""What schedules of faults have found wrong between two routers; each test names the seed that showed it first."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from atelier.router.v1 import job_pb2
from atelier.worker.v1 import worker_service_pb2
from router_service.domain import LeaseRef
from router_service.identity import Identities
from router_service.sessions import Session
from service_kit.errors import Unavailable
from service_kit.keyring import Keyrings
from tests.router_service.support import WAIT_S, Router, running_router

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


async def test_a_router_that_loses_its_database_at_the_start_waits_for_it(
    tmp_path: Path, migrated_postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seed 182: PostgreSQL was killed after the schema was looked at and before the keys were: the router ended."""
    real, tries = Identities.bootstrap, 0

    async def bootstrap(self: Identities, rings: Keyrings) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise Unavailable("The database cannot be reached at the moment; repeat.")
        await real(self, rings)

    monkeypatch.setattr(Identities, "bootstrap", bootstrap)
    async with running_router(tmp_path, **{"core.database_url": migrated_postgres_url}) as router:
        assert tries == 2
        assert (await router.submit()).job_id


async def test_of_heartbeats_that_wait_the_newest_is_dealt_with(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seeds 2 and 16: a slow router fell behind, renewed what had been held long ago, and lost every lease in use."""
    here, _ = replicas
    dispatch, one = here.service.dispatch, await here.worker(slots=2)
    renewed: list[list[LeaseRef]] = []
    real, begun, go_on = dispatch.renew, asyncio.Event(), asyncio.Event()

    async def renew(session: Session, refs: list[LeaseRef]) -> tuple[list[LeaseRef], list[LeaseRef]]:
        renewed.append(refs)
        begun.set()
        await go_on.wait()
        return await real(session, refs)

    monkeypatch.setattr(dispatch, "renew", renew)
    await here.submit()
    lease = await one.take()
    await one.say(heartbeat=worker_service_pb2.Heartbeat())
    async with asyncio.timeout(WAIT_S):
        await begun.wait()
    for _ in range(5):
        await one.say(heartbeat=worker_service_pb2.Heartbeat())
    await one.say(heartbeat=worker_service_pb2.Heartbeat(leases=[lease.ref]))
    # What comes after them is heard: so all of them have been.
    await one.say(credits=worker_service_pb2.Credits(free=2))
    (session,) = here.service.sessions
    async with asyncio.timeout(WAIT_S):
        while session.credits != 2:  # noqa: ASYNC110 - nothing tells it
            await asyncio.sleep(0.001)
    go_on.set()
    await one.hear("heartbeat_ack")
    await one.hear("heartbeat_ack")
    assert [[ref.job_id for ref in refs] for refs in renewed] == [[], [lease.ref.job_id]]
