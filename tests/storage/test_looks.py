"""What watchers read together: each what it asked for, and nobody else's."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest_asyncio

from router_service.looks import Looks
from router_service.storage import Storage
from service_kit.clock import ManualClock
from service_kit.errors import NotFound, ResourceExhausted
from service_kit.identity import Owner
from tests.storage.both import job

ANN, BOB = Owner("t", "ann"), Owner("t", "bob")


@pytest_asyncio.fixture
async def written(router: Storage, clock: ManualClock) -> Storage:
    """Two jobs of one owner with two events each, and one of another's."""
    jobs = [job("j1", clock.now()), job("j2", clock.now()), job("j3", clock.now(), owner=BOB)]
    async with router.write() as tx:
        await tx.jobs.add(jobs)
    async with router.write() as tx:
        locked = await tx.jobs.lock(["j1", "j2"])
        changed = [(one, dataclasses.replace(one, version=one.version + 1)) for one in locked.values()]
        await tx.jobs.save(changed)
    return router


async def test_who_looks_at_the_same_moment_sees_their_own(written: Storage) -> None:
    together = Looks(written)
    first, second, others, theirs, nothing = await asyncio.gather(
        together.job("j1", ANN),
        together.job("j2", ANN),
        together.job("j3", BOB),
        together.job("j3", ANN),
        together.job("j4", ANN),
        return_exceptions=True,
    )
    assert isinstance(theirs, NotFound)
    assert isinstance(nothing, NotFound)
    seen = [(each[0].position, each[1].job_id) for each in (first, second, others) if isinstance(each, tuple)]
    assert seen == [(4, "j1"), (4, "j2"), (1, "j3")]
    told = await asyncio.gather(
        together.events(0, ANN, "j1"),
        together.events(1, ANN, "j1"),
        together.events(0, ANN, "j2"),
        together.events(0, BOB, "j3"),
        together.events(0, ANN, "j3"),
    )
    assert [[event.position for event in events] for events in told] == [[1, 3], [3], [2, 4], [1], []]
    await together.close()


async def test_nobody_misses_what_did_not_fit_into_one_look(written: Storage) -> None:
    together = Looks(written, most_events=2)
    told = await asyncio.gather(*(together.events(0, ANN, job_id) for job_id in ("j3", "j1", "j2")))
    assert [[event.position for event in events] for events in told] == [[], [1, 3], [2, 4]]


async def test_who_finds_too_many_waiting_is_told_to_come_back(written: Storage) -> None:
    together = Looks(written, most_waiting=2)
    *seen, refused = await asyncio.gather(*(together.job("j1", ANN) for _ in range(3)), return_exceptions=True)
    assert [isinstance(each, tuple) for each in seen] == [True, True]
    assert isinstance(refused, ResourceExhausted)
    assert refused.retry_after is not None
    assert (await together.job("j1", ANN))[1].job_id == "j1"
    await together.close()
