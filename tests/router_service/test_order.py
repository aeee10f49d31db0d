"""First in, first out: what waits longest is next, however much waits and however little is looked at."""

from __future__ import annotations

from datetime import timedelta

from tests.router_service.support import Router


async def test_a_single_slot_takes_the_oldest(router: Router) -> None:
    accepted = []
    for _ in range(3):
        accepted.append((await router.submit()).job_id)
        router.clock.advance(timedelta(seconds=1))
    one = await router.worker(free=1)
    for job_id in accepted:
        lease = await one.take()
        assert lease.ref.job_id == job_id
        assert await one.deliver(lease, completion_id=job_id) == "recorded"
        await one.say(credits={"free": 1})


async def test_what_is_retried_keeps_its_place(router: Router) -> None:
    older, younger = [(await router.submit()).job_id for _ in range(2)]
    one = await router.worker(free=1)
    lease = await one.take()
    assert lease.ref.job_id == older
    await one.say(lease_reject={"ref": lease.ref, "reason": "not now"})
    await one.heartbeat()
    await one.say(credits={"free": 1})
    assert (await one.take()).ref.job_id == older
    assert younger != older
