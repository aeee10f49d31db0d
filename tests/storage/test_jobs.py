"""The jobs table: what is read, by whom, in which order, and how a change is kept from overwriting another."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from router_service.chat_domain import Chat, ChatMessage, ChatReply, ChatRole, TokenUsage
from router_service.domain import Failure, Job, JobState, LeaseRef
from router_service.generation_domain import Format, Reference
from router_service.storage import Storage
from router_service.storage.jobs import Place, Wanted
from router_service.storage.ledger import OutboxKind
from service_kit.clock import ManualClock
from service_kit.database import Database
from service_kit.errors import Aborted, ErrorReason, NotFound
from service_kit.identity import Owner
from tests.storage.both import job

ANN, BOB, OTHER = Owner("t", "ann"), Owner("t", "bob"), Owner("u", "ann")
SECOND = timedelta(seconds=1)


def ended(before: Job, clock: ManualClock, state: JobState = JobState.SUCCEEDED) -> Job:
    return dataclasses.replace(before, state=state, version=before.version + 1, finished_at=clock.now())


async def add(router: Storage, *new: Job) -> None:
    async with router.write() as tx:
        await tx.jobs.add(new)


async def test_a_job_comes_back_as_it_was_and_only_for_its_owner(router: Storage, clock: ManualClock) -> None:
    plain = job("j1", clock.now())
    rich = job(
        *("j2", clock.now()),
        references=(Reference("a1", "style", 0.5, "workspace", "key", "7", "image/png", 2**40),),
        failure=Failure(ErrorReason.INTERNAL, "it broke: \0 \u2028 ' \" {}"),
        priority=-5,
        started_at=clock.now(),
    )
    await add(router, plain, rich)
    await add(router)
    async with router.read() as tx:
        assert await tx.jobs.get("j1") == plain
        assert await tx.jobs.get("unknown") is None
        assert await tx.jobs.get_owned("j2", ANN) == rich
        for owner in (BOB, OTHER):
            with pytest.raises(NotFound):
                await tx.jobs.get_owned("j2", owner)
        assert await tx.jobs.find(["j2", "unknown", "j1"]) == {"j1": plain, "j2": rich}
        assert await tx.jobs.find([]) == {}
        told = await tx.events.find_after(0, owner=ANN)
        assert [event.job for event in told] == [plain, rich]
    async with router.write() as tx:
        assert await tx.jobs.lock(["j2", "unknown", "j1"]) == {"j1": plain, "j2": rich}
        assert await tx.jobs.lock([]) == {}


async def test_jobs_are_listed_newest_first_page_by_page(router: Storage, clock: ManualClock) -> None:
    await add(router, job("j1", clock.now()), job("j2", clock.now(), state=JobState.RUNNING))
    clock.advance(SECOND)
    await add(router, job("j0", clock.now()), job("j9", clock.now(), owner=BOB), job("j8", clock.now(), owner=OTHER))
    async with router.read() as tx:

        async def listed(limit: int = 9, **wanted: Any) -> list[str]:
            return [one.job_id for one in await tx.jobs.find_page(ANN, Wanted(**wanted), limit=limit)]

        assert await listed() == ["j0", "j2", "j1"]
        assert await listed(limit=1) == ["j0"]
        assert await listed(after=Place(clock.now(), "j0")) == ["j2", "j1"]
        assert await listed(after=Place(clock.now() - SECOND, "j2")) == ["j1"]
        assert await listed(state=JobState.RUNNING) == ["j2"]
        assert await listed(state=JobState.FAILED) == []
        assert await listed(oldest_first=True) == ["j1", "j2", "j0"]
        assert await listed(oldest_first=True, after=Place(clock.now() - SECOND, "j1")) == ["j2", "j0"]


async def test_jobs_are_listed_by_what_they_make(router: Storage, clock: ManualClock) -> None:
    image = job("j1", clock.now())
    video = dataclasses.replace(image, job_id="j2", settings=dataclasses.replace(image.settings, format=Format.VIDEO))
    text = dataclasses.replace(image, job_id="j3", settings=dataclasses.replace(image.settings, format=None))
    await add(router, image, video, text)
    async with router.read() as tx:
        assert await tx.jobs.find_page(ANN, Wanted(format=Format.VIDEO), limit=9) == [video]
        assert await tx.jobs.find_page(ANN, Wanted(format=Format.IMAGE), limit=9) == [image]
        assert await tx.jobs.find_page(ANN, Wanted(), limit=9) == [text, video, image]


async def test_a_list_goes_on_after_a_job_that_is_gone(router: Storage, clock: ManualClock) -> None:
    """The moment is known roughly, from its id; then the ids say what comes first."""
    for number in range(4):
        await add(router, job(f"j{number}", clock.now()))
        clock.advance(SECOND)
    for rough in (-SECOND, SECOND):
        gone = Place(clock.now() - 3 * SECOND + rough, "j1x", within=2 * SECOND)
        async with router.read() as tx:
            newest = await tx.jobs.find_page(ANN, Wanted(after=gone), limit=9)
            oldest = await tx.jobs.find_page(ANN, Wanted(after=gone, oldest_first=True), limit=9)
        assert [one.job_id for one in newest] == ["j1", "j0"]
        assert [one.job_id for one in oldest] == ["j2", "j3"]


async def test_one_job_is_removed_when_it_has_ended_and_that_was_told(router: Storage, clock: ManualClock) -> None:
    waiting, told, untold = (job(f"j{number}", clock.now()) for number in range(3))
    await add(router, waiting, told, untold)
    async with router.write() as tx:
        await tx.jobs.save([(one, ended(one, clock)) for one in (told, untold)])
        await tx.ledger.add_outcomes([(LeaseRef("j1", 0, 1), "c", b"")], clock.now())
        await tx.ledger.send(OutboxKind.SETTLE, ["j2"], clock.now())
        assert [await tx.jobs.remove(f"j{number}") for number in range(4)] == [False, True, False, False]
        assert set(await tx.jobs.find(["j0", "j1", "j2"])) == {"j0", "j2"}
        assert await tx.ledger.find_outcomes(["j1"]) == set()


async def test_watchers_are_not_told_the_conversation_again(router: Storage, clock: ManualClock) -> None:
    talk = Chat((ChatMessage(ChatRole.USER, "hello"),), max_tokens=0, temperature=0.0, stop=("x",))
    said = job("j1", clock.now(), chat=talk, annotations=(("a", "b"),), reply=ChatReply("", None, TokenUsage(0, 0)))
    await add(router, said)
    async with router.read() as tx:
        assert await tx.jobs.get("j1") == said
        assert [event.job for event in await tx.events.find_after(0, owner=ANN)] == [
            dataclasses.replace(said, chat=None)
        ]


async def test_what_has_not_ended_is_found_newest_first(router: Storage, clock: ManualClock) -> None:
    for number, state in enumerate(JobState):
        await add(router, job(f"j{number}", clock.now(), state=state))
        clock.advance(SECOND)
    await add(router, job("j9", clock.now(), owner=BOB))
    async with router.read() as tx:
        unfinished = await tx.jobs.find_unfinished(ANN, limit=9)
        assert [one.state for one in unfinished] == [JobState.PUBLISHING, JobState.RUNNING, JobState.QUEUED]
        assert len(await tx.jobs.find_unfinished(ANN, limit=2)) == 2
        assert await tx.jobs.find_unfinished(OTHER, limit=9) == []


async def test_a_transition_is_written_with_an_event_if_its_version_grew(router: Storage, clock: ManualClock) -> None:
    first, second = job("j1", clock.now()), job("j2", clock.now())
    await add(router, first, second)
    running = dataclasses.replace(first, state=JobState.RUNNING, version=2, fence=1, holder="w")
    silent = dataclasses.replace(second, leases=1)
    async with router.write() as tx:
        await tx.jobs.save([(first, running), (second, silent)])
        await tx.jobs.save([])
    async with router.read() as tx:
        assert await tx.jobs.find(["j1", "j2"]) == {"j1": running, "j2": silent}
        assert [event.job for event in await tx.events.find_after(2, owner=ANN)] == [running]


@pytest.mark.parametrize(
    "meanwhile",
    [{"version": 2}, {"fence": 1}, {"stage": 1}, {"state": JobState.RUNNING}],
    ids=lambda change: next(iter(change)),
)
async def test_a_transition_of_what_the_job_no_longer_is_changes_nothing(
    router: Storage, clock: ManualClock, meanwhile: dict[str, Any]
) -> None:
    """The fence above all: what was decided of an earlier lease must not overwrite a later one."""
    before, other = job("j1", clock.now()), job("j2", clock.now())
    await add(router, before, other)
    changed = dataclasses.replace(before, **meanwhile)
    async with router.write() as tx:
        await tx.jobs.save([(before, changed)])
    with pytest.raises(Aborted, match="1 of 2"):
        async with router.write() as tx:
            await tx.jobs.save([(other, ended(other, clock)), (before, ended(before, clock))])
    async with router.read() as tx:
        assert await tx.jobs.find(["j1", "j2"]) == {"j1": changed, "j2": other}


async def test_ended_jobs_go_with_their_outcomes_once_everything_was_told(router: Storage, clock: ManualClock) -> None:
    jobs = [job(f"j{number}", clock.now()) for number in range(4)]
    await add(router, *jobs)
    async with router.write() as tx:
        await tx.jobs.save([(one, ended(one, clock)) for one in jobs[:3]])
        await tx.ledger.add_outcomes([(LeaseRef("j0", 0, 1), "c", b""), (LeaseRef("j3", 0, 1), "c", b"")], clock.now())
        await tx.ledger.send(OutboxKind.SETTLE, ["j2"], clock.now())
    clock.advance(SECOND)
    async with router.write() as tx:
        assert await tx.jobs.remove_ended(SECOND, limit=9) == 0
        clock.advance(SECOND)
        assert await tx.jobs.remove_ended(SECOND, limit=1) == 1
        assert await tx.jobs.remove_ended(SECOND, limit=9) == 1
        assert await tx.jobs.remove_ended(SECOND, limit=9) == 0
        assert set(await tx.jobs.find(["j0", "j1", "j2", "j3"])) == {"j2", "j3"}
        assert await tx.ledger.find_outcomes(["j0", "j3"]) == {("j3", 0, "c")}


async def test_an_owners_jobs_are_erased_once_everything_was_told(router: Storage, clock: ManualClock) -> None:
    jobs = [job(f"j{number}", clock.now()) for number in range(3)]
    other = job("j9", clock.now(), owner=Owner("t", "bob"))
    await add(router, *jobs, other)
    owner = jobs[0].owner
    async with router.write() as tx:
        await tx.jobs.save([(one, ended(one, clock)) for one in (*jobs[:2], other)])
        await tx.ledger.add_outcomes([(LeaseRef("j0", 0, 1), "c", b"")], clock.now())
        await tx.ledger.send(OutboxKind.SETTLE, ["j1"], clock.now())
        assert await tx.jobs.count_of(owner) == 3
        assert await tx.jobs.erase_settled(owner, limit=9) == 1
        assert await tx.jobs.erase_settled(owner, limit=9) == 0
        assert await tx.jobs.count_of(owner) == 2
        assert await tx.jobs.count_of(other.owner) == 1
        assert await tx.ledger.find_outcomes(["j0"]) == set()


async def test_the_clock_of_a_transaction_stands_still(router: Storage, clock: ManualClock) -> None:
    began = clock.now()
    async with router.write() as tx:
        assert await tx.now() == began
        clock.advance(SECOND)
        assert await tx.now() == began
    async with router.read() as tx:
        assert await tx.now() == began + SECOND


async def test_who_has_locked_a_job_decides_before_anybody_else_reads_it(
    open_database: Callable[[str], Database], clock: ManualClock
) -> None:
    """On two connections, as two replicas have them."""
    one, two = Storage(open_database("router")), Storage(open_database("router"))
    first = job("j1", clock.now())
    await add(one, first)
    locked = asyncio.Event()

    async def second() -> Job:
        await locked.wait()
        async with two.write() as tx:
            return (await tx.jobs.lock(["j1"]))["j1"]

    async with asyncio.TaskGroup() as group:
        late = group.create_task(second())
        async with one.write() as tx:
            await tx.jobs.lock(["j1"])
            locked.set()
            done, _ = await asyncio.wait({late}, timeout=0.05)
            assert not done
            await tx.jobs.save([(first, ended(first, clock))])
    assert late.result().state is JobState.SUCCEEDED


async def test_who_does_not_wait_leaves_out_what_is_locked(
    open_database: Callable[[str], Database], clock: ManualClock, backend: str
) -> None:
    if backend == "sqlite":
        pytest.skip("there is one writer")
    one, two = Storage(open_database("router")), Storage(open_database("router"))
    await add(one, job("j1", clock.now()), job("j2", clock.now()))
    async with one.write() as holder, two.write() as tx:
        await holder.jobs.lock(["j1"])
        assert set(await tx.jobs.lock(["j2", "j1"], skip_locked=True)) == {"j2"}
