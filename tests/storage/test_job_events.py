"""What watchers of jobs are told."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest

from router_service.storage import Storage, codec
from service_kit.clock import ManualClock
from service_kit.identity import Owner
from tests.storage.both import job

ANN, BOB = Owner("t", "ann"), Owner("t", "bob")
SECOND = timedelta(seconds=1)


async def test_jobs_are_told_as_they_were_after_each_change(router: Storage, clock: ManualClock) -> None:
    first = job("j1", clock.now())
    second = dataclasses.replace(first, version=2, prompt="changed")
    others = job("j2", clock.now(), owner=BOB), job("j3", clock.now())
    with pytest.raises(KeyError):
        async with router.write() as tx:
            tx.events.add(first, codec.to_bytes(first))
            raise KeyError
    async with router.write() as tx:
        for one in (first, second, *others):
            tx.events.add(one, codec.to_bytes(one))
        assert await tx.now() == clock.now()
    async with router.read() as tx:
        mine = await tx.events.find_after(0, owner=ANN)
        assert [(event.position, event.job) for event in mine] == [(1, first), (2, second), (3, others[1])]
        assert [event.position for event in await tx.events.find_after(1, owner=ANN)] == [2, 3]
        assert [event.position for event in await tx.events.find_after(0, owner=ANN, job_id="j1")] == [1, 2]
        assert [event.position for event in await tx.events.find_after(0, owner=ANN, limit=1)] == [1]
        assert await tx.events.find_after(0, owner=Owner("u", "ann")) == []
        since = {(ANN, "j1"): 1, (BOB, "j2"): 0, (BOB, "j3"): 0, (ANN, "j3"): 3}
        told = [(owner, event.position, event.job) for owner, event in await tx.events.find_of_jobs(since, limit=9)]
        assert told == [(BOB, 1, others[0]), (ANN, 2, second)]
        assert len(await tx.events.find_of_jobs({(ANN, "j1"): 0}, limit=1)) == 1
        assert await tx.events.find_of_jobs({}, limit=9) == []
        assert await tx.events.changed([(ANN, 2), (BOB, 0)]) == [(ANN, "j3", 3), (BOB, "j2", 1)]
        assert (await tx.events.place(ANN)).position == 3
    clock.advance(SECOND)
    async with router.write() as tx:
        assert await tx.events.trim(SECOND) == 0
        assert await tx.events.trim(SECOND / 2) == 4
        tx.events.add(first, codec.to_bytes(first))
        await tx.events.write()
        assert [event.position for event in await tx.events.find_after(0, owner=ANN)] == [4]


async def test_the_database_answers(router: Storage) -> None:
    await router.ping()
