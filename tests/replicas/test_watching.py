"""Watchers at one replica of what happens at the other: each change once and in order, and reports in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from atelier.router.v1 import job_pb2
from atelier.router.v1 import router_service_pb2 as pb
from atelier.worker.v1 import worker_service_pb2 as worker
from service_kit.events.exchange import Exchange
from tests.router_service.support import WAIT_S, Router, ScriptedWorker

Replicas = tuple[Router, Router]
# Followers that never look by themselves, so that only what is told wakes them.
LOOKING, TELLING = "router.followers", "router.exchange"


class Watching:
    """One who watches a job, and all that was said to them."""

    def __init__(self, router: Router, job_id: str) -> None:
        self.stream: Any = router.jobs.WatchJob(pb.WatchJobRequest(job_id=job_id))
        self.heard: list[pb.WatchJobResponse] = []

    async def until(self, kind: str, is_it: Callable[[Any], bool] = lambda _event: True) -> Any:
        """Read on to an event of a kind, and return it."""
        async with asyncio.timeout(WAIT_S):
            while True:
                event = await self.stream.read()
                self.heard.append(event)
                if event.WhichOneof("event") == kind and is_it(getattr(event, kind)):
                    return getattr(event, kind)

    async def text(self, length: int) -> str:
        """Read on until the text is this long, and return it."""
        text = ""
        while len(text) < length:
            delta = await self.until("text_delta")
            assert delta.offset <= len(text), "a piece is missing"
            text = text[: delta.offset] + delta.text
        return text

    async def to_the_end(self) -> list[int]:
        """Read all there is, and return the versions of the job in the order in which they came."""
        async with asyncio.timeout(WAIT_S):
            async for event in self.stream:
                self.heard.append(event)
        jobs = [event.state if event.HasField("state") else event.snapshot for event in self.heard]
        return [job.version for job in jobs if job.version]


@asynccontextmanager
async def watching(router: Router, job_id: str) -> AsyncIterator[Watching]:
    """Watch a job, from its snapshot on."""
    watching = Watching(router, job_id)
    await watching.until("snapshot")
    try:
        yield watching
    finally:
        watching.stream.cancel()


def is_state(state: job_pb2.JobState.ValueType) -> Callable[[job_pb2.Job], bool]:
    return lambda job: job.state == state


async def report(one: ScriptedWorker, lease: worker.Lease, **what: Any) -> None:
    await one.say(reports=worker.Reports(reports=[worker.Report(ref=lease.ref, **what)]))


async def applied(one: ScriptedWorker, lease: worker.Lease) -> None:
    """Wait until what a worker has said so far is taken."""
    await one.heartbeat(lease)


async def test_a_job_is_followed_from_another_replica(replicas: Replicas) -> None:
    here, there = replicas
    await there.service.tasks.stop_one(LOOKING)
    one = await here.worker()
    accepted = await here.submit(quantity=2)
    lease = await one.take()
    async with watching(there, accepted.job_id) as watcher:
        await report(one, lease, progress=worker.StepProgress(asset_index=1, step=3, steps=12, phase="drawing"))
        image = worker.PreviewImage(asset_index=1, step=3, content_type="image/webp", image=b"a\npicture")
        await report(one, lease, preview=image)
        await report(one, lease, log="a line")
        assert (await watcher.until("log")).line == "a line"
        kinds = {event.WhichOneof("event"): event for event in watcher.heard}
        while not {"progress", "preview"} <= set(kinds):
            kind = "preview" if "progress" in kinds else "progress"
            await watcher.until(kind)
            kinds = {event.WhichOneof("event"): event for event in watcher.heard}
        assert (kinds["progress"].progress.fraction, kinds["progress"].progress.phase) == (3 / 12 / 2, "drawing")
        assert (kinds["preview"].preview.image, kinds["preview"].preview.asset_index) == (b"a\npicture", 1)
        await one.deliver(lease)
        versions = await watcher.to_the_end()
    assert versions == list(range(versions[0], versions[0] + len(versions)))
    assert (await there.job(accepted.job_id)).version == versions[-1]


async def test_who_comes_late_gets_the_newest_of_everything_from_another_replica(replicas: Replicas) -> None:
    here, there = replicas
    one = await here.worker()
    accepted = await here.submit(enhancement_only=True)
    lease = await one.take()
    await report(one, lease, text=worker.TextPiece(offset=0, text="a red "))
    await report(one, lease, text=worker.TextPiece(offset=6, text="kite"))
    await report(one, lease, progress=worker.StepProgress(step=1, steps=2))
    await report(one, lease, log="a line")
    await applied(one, lease)
    for _ in range(2):
        async with watching(there, accepted.job_id) as watcher:
            assert await watcher.text(10) == "a red kite"
            kinds = [event.WhichOneof("event") for event in watcher.heard]
            assert kinds.count("log") == 1
            if "progress" not in kinds:
                await watcher.until("progress")


async def test_a_second_watcher_and_a_lost_piece_repeat_nothing_to_the_first(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = replicas
    one = await here.worker()
    accepted = await here.submit(enhancement_only=True)
    lease = await one.take()
    async with watching(there, accepted.job_id) as first:
        await report(one, lease, text=worker.TextPiece(offset=0, text="one "))
        assert await first.text(4) == "one "
        lose(monkeypatch, here.service.exchange, "report")
        await report(one, lease, text=worker.TextPiece(offset=4, text="two "))
        await applied(one, lease)
        monkeypatch.undo()
        await report(one, lease, text=worker.TextPiece(offset=8, text="three"))
        assert (await first.until("text_delta")).text == "two three"
        async with watching(there, accepted.job_id) as second:
            assert await second.text(13) == "one two three"
    assert [event.text_delta.text for event in first.heard if event.HasField("text_delta")] == ["one ", "two three"]


async def test_what_nobody_watches_is_not_told(replicas: Replicas) -> None:
    here, there = replicas
    told: list[bytes] = []
    there.service.exchange.listen("report", told.append)
    there.service.exchange.listen("answer", told.append)
    one = await here.worker()
    unwatched, watched = await here.submit(), await here.submit()
    leases = {lease.ref.job_id: lease for lease in [await one.take(), await one.take()]}
    async with watching(there, watched.job_id) as watcher:
        # The second time it is known for sure that somebody watches the one, and that nobody watches the other.
        for step in (1, 2):
            preview = worker.PreviewImage(asset_index=0, step=step, content_type="image/webp", image=b"x")
            await report(one, leases[unwatched.job_id], preview=preview)
            await report(one, leases[watched.job_id], preview=preview)
            assert (await watcher.until("preview")).step == step
    assert told
    assert not any(unwatched.job_id.encode() in one_told for one_told in told)


async def test_the_progress_of_an_owners_jobs_is_followed_from_another_replica(replicas: Replicas) -> None:
    here, there = replicas
    await there.service.tasks.stop_one(LOOKING)
    stream: Any = there.jobs.WatchJobs(pb.WatchJobsRequest())

    async def read_to_progress() -> str:
        while not (event := await stream.read()).HasField("progress"):
            pass
        return str(event.progress.job_id)

    reading = asyncio.create_task(read_to_progress())
    one = await here.worker()
    accepted = await here.submit()
    lease = await one.take()
    async with asyncio.timeout(WAIT_S):
        while not reading.done():
            # Until it is known there that somebody watches here.
            await report(one, lease, progress=worker.StepProgress(step=1, steps=4))
            await asyncio.wait((reading,), timeout=0.05)
    assert await reading == accepted.job_id
    stream.cancel()


async def test_a_worker_that_moves_is_followed_from_where_it_was(replicas: Replicas) -> None:
    here, there = replicas
    one = await here.worker()
    accepted = await here.submit()
    lease = await one.take()
    await applied(one, lease)
    async with watching(here, accepted.job_id) as watcher:
        await one.disconnect()
        moved = await there.worker(leases=[lease.ref])
        assert list(moved.welcome.kept) == [lease.ref]
        await report(moved, lease, log="from over there")
        assert (await watcher.until("log")).line == "from over there"
        await moved.deliver(lease)
        versions = await watcher.to_the_end()
    assert versions == sorted(set(versions))


async def test_a_worker_that_is_elsewhere_is_followed_though_its_old_connection_still_stands(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = replicas
    one = await here.worker()
    accepted = await here.submit()
    lease = await one.take()
    await applied(one, lease)
    monkeypatch.setattr("router_service.relay._SILENT_S", 0.0)
    async with watching(here, accepted.job_id) as watcher:
        moved = await there.worker(leases=[lease.ref])
        reading = asyncio.create_task(watcher.until("log"))
        async with asyncio.timeout(WAIT_S):
            while not reading.done():
                # Until it is known there that somebody watches here.
                await report(moved, lease, log="from over there")
                await asyncio.wait((reading,), timeout=0.05)
        assert (await reading).line == "from over there"


async def test_without_any_message_the_changes_come_all_the_same(replicas: Replicas) -> None:
    here, there = replicas
    for router in replicas:
        await router.service.tasks.stop_one(TELLING)
    one = await here.worker()
    accepted = await here.submit()
    async with watching(there, accepted.job_id) as watcher:
        await one.deliver(await one.take())
        versions = await watcher.to_the_end()
    assert versions == list(range(versions[0], versions[0] + len(versions)))
    assert (await there.job(accepted.job_id)).version == versions[-1]


def lose(monkeypatch: pytest.MonkeyPatch, exchange: Exchange, lost: str) -> None:
    """Let an exchange lose every message of a topic."""
    publish = exchange.publish

    def losing(topic: str, payload: bytes = b"", *, key: str | None = None) -> None:
        if topic != lost:
            publish(topic, payload, key=key)

    monkeypatch.setattr(exchange, "publish", losing)
