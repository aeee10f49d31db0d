"""Watchers of the same share a stream: how they join, what each hears, who may, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from gateway.feeds import Seat
from gateway.news import News, Watched
from gateway.streams import Access, Watch
from service_kit.errors import AtelierError, ErrorReason, NotFound, Unauthenticated, Unavailable
from service_kit.identity import KeyKind, Owner
from tests.gateway.conftest import MakeWorld, World
from tests.gateway.fakes import ANN
from tests.gateway.logs import JobLog, at
from tests.gateway.sse import Event, events

URL = "/v1/jobs/j1/events"
BOB = {"authorization": "Bearer atl_bob"}


@pytest.fixture
def log(world: World) -> JobLog:
    made = JobLog()
    world.behaviour.streams["WatchJob"] = made.watch
    return made


@asynccontextmanager
async def watching(world: World, after: str = "", headers: dict[str, str] = ANN) -> AsyncIterator[AsyncIterator[Event]]:
    """Watch the job until the block ends; comments are left out."""
    async with world.http.stream("GET", URL, headers=headers | {"last-event-id": after}) as response:
        assert response.status_code == 200, await response.aread()

        async def named() -> AsyncIterator[Event]:
            async with aclosing(events(response)) as lines:
                async for event in lines:
                    if event.name != "comment":
                        yield event

        yield named()


async def _versions(lines: AsyncIterator[Event], count: int) -> list[int]:
    async with asyncio.timeout(10):
        found = [await anext(lines) for _ in range(count)]
    return [event.data[event.name]["version"] for event in found]


async def test_equal_watches_share_a_stream_and_each_hears_everything_once(world: World, log: JobLog) -> None:
    await log.add(3)
    async with watching(world, at(1)) as first, watching(world) as second, watching(world, at(2)) as third:
        assert await _versions(first, 2) == [2, 3]
        assert await _versions(second, 1) == [3]
        assert await _versions(third, 1) == [3]
        assert (log.followed, log.once) == (1, 2)
        await log.add(2)
        assert [await _versions(lines, 2) for lines in (first, second, third)] == [[4, 5]] * 3


async def test_a_cursor_from_the_future_is_answered_with_a_snapshot(world: World, log: JobLog) -> None:
    await log.add(3)
    async with watching(world, at(10**12)) as first, watching(world, at(10**12)) as second:
        for lines in (first, second):
            assert await _versions(lines, 1) == [3]
        await log.add(2)
        for lines in (first, second):
            assert await _versions(lines, 2) == [4, 5]
        assert (log.followed, log.once) == (1, 1)


async def test_a_stream_goes_on_without_him_who_brought_it_and_ends_with_the_last(world: World, log: JobLog) -> None:
    await log.add()
    async with watching(world) as second:
        async with watching(world) as first:
            assert await _versions(first, 1) == await _versions(second, 1) == [1]
        await log.add()
        assert await _versions(second, 1) == [2]
        assert log.followed == 1
    await asyncio.wait_for(log.quiet(), 5)


async def test_a_job_that_ends_ends_all_and_to_whoever_comes_back_there_is_204(world: World, log: JobLog) -> None:
    await log.add()
    async with watching(world) as first, watching(world) as second:
        assert await _versions(first, 1) == await _versions(second, 1) == [1]
        await log.add(last=True)
        for lines in (first, second):
            assert [event.data["state"]["version"] async for event in lines] == [2]
    response = await world.http.get(URL, headers=ANN | {"last-event-id": at(2)})
    assert response.status_code == 204


async def test_another_key_never_joins(world: World, log: JobLog) -> None:
    allowed = log.watch

    async def watch(request: Any, context: Any) -> AsyncIterator[Any]:
        if dict(context.invocation_metadata())["atelier-on-behalf-of"] != "default/ann":
            raise NotFound.of("job", request.job_id)
        async with aclosing(allowed(request, context)) as told:  # type: ignore[type-var]
            async for message in told:
                yield message

    world.behaviour.streams["WatchJob"] = watch
    await log.add()
    shop = {"x-api-key": "atl_internal"}
    async with watching(world, headers=shop | {"atelier-on-behalf-of": "default/ann"}) as lines:
        assert await _versions(lines, 1) == [1]
        refused = await world.http.get(URL, headers=shop | {"atelier-on-behalf-of": "default/bob"})
        assert (refused.status_code, refused.json()["error"]["reason"]) == (404, "not_found")
        world.behaviour.streams["WatchJob"] = log.watch
        async with watching(world, headers=BOB) as other:
            assert await _versions(other, 1) == [1]
            # Not even for the same thing: whether it is theirs is what the service says.
            assert log.followed == 2


async def test_what_breaks_the_stream_is_said_to_all(world: World, log: JobLog) -> None:
    await log.add()
    async with watching(world) as first, watching(world) as second:
        assert await _versions(first, 1) == await _versions(second, 1) == [1]
        await log.fail(Unavailable("The database is away.", retry_after=timedelta(seconds=3)))
        for lines in (first, second):
            [error] = [event async for event in lines]
            assert (error.name, error.data["error"]["status"]) == ("error", "UNAVAILABLE")


async def test_the_merged_stream_and_that_of_one_source_share(world: World) -> None:
    async with (
        world.http.stream("GET", "/v1/events", headers=ANN),
        world.http.stream("GET", "/v1/events/items", headers=ANN),
    ):
        calls = world.behaviour.seen["WatchItems"]
        assert ["atelier-watch" in call.metadata for call in calls] == [False, True]


async def test_an_owner_has_so_many_streams_and_no_more(make_world: MakeWorld) -> None:
    world = await make_world(gateway__event_streams_per_owner=2)
    async with world.http.stream("GET", "/v1/events", headers=ANN):
        async with world.http.stream("GET", URL, headers=ANN):
            for path in (URL, "/v1/events"):
                refused = await world.http.get(path, headers=ANN)
                problem = refused.json()["error"]
                assert (refused.status_code, problem["reason"]) == (429, "limit_reached")
                assert problem["fields"][0]["field"] == "event_streams_per_owner"
                assert "retry-after" in refused.headers
            async with world.http.stream("GET", URL, headers=BOB) as other:
                assert other.status_code == 200
        async with asyncio.timeout(5):
            while (await _status(world)) != 200:
                continue


async def _status(world: World) -> int:
    async with world.http.stream("GET", URL, headers=ANN) as response:
        return response.status_code


async def test_streams_end_when_their_key_is_revoked(world: World, log: JobLog) -> None:
    await log.add()
    world.behaviour.token_ttl = timedelta(seconds=3)
    async with watching(world) as first, watching(world) as second:
        assert await _versions(first, 1) == await _versions(second, 1) == [1]

        async def refuse(request: Any, context: Any) -> Any:
            raise Unauthenticated("The key is not valid.")

        world.behaviour.unary["ExchangeKey"] = refuse
        for lines in (first, second):
            [error] = [event async for event in lines]
            assert (error.name, error.data["error"]["status"]) == ("error", "UNAUTHENTICATED")
    await asyncio.wait_for(log.quiet(), 5)


class Client:
    """A watcher that takes what it is given while it has room, without any connection."""

    def __init__(self, most: int = 1_000_000) -> None:
        self.heard: list[str] = []
        self.errors: list[AtelierError | None] = []
        self.most = most
        self._room = asyncio.Condition()
        self._told = asyncio.Event()

    @property
    def full(self) -> bool:
        return len(self.heard) >= self.most

    def hear(self, seat: Seat, news: News) -> None:
        self.heard.append(news.cursor)
        self._told.set()

    async def room(self) -> None:
        async with self._room:
            await self._room.wait_for(lambda: not self.full)

    def lost(self, seat: Seat, error: AtelierError | None) -> None:
        self.errors.append(error)

    async def take(self, most: int, *seats: Seat) -> None:
        async with self._room:
            self.most = most
            self._room.notify_all()
        for seat in seats:
            seat.made_room()

    async def until(self, count: int) -> list[str]:
        async with asyncio.timeout(10):
            while len(self.heard) < count:
                self._told.clear()
                await self._told.wait()
        return self.heard


def _seat(world: World, client: Client, identity: bytes = b"ann") -> Seat:
    route = next(route for route in world.gateway.app.table.routes if route.method.name == "WatchJob")
    signer = world.services.signer
    token = signer.issue(owner=Owner("default", "ann"), kind=KeyKind.USER, key_id="k1").token.reveal()

    async def access() -> Any:
        return (("authorization", f"Bearer {token}"),)

    made: Access = access
    watched = Watched(route.grpc_path, b"\n\x02j1", identity, route, made)
    return Seat(world.gateway.context.feeds, watched, at(0), client)


async def test_who_is_slow_slows_nobody_and_misses_nothing(world: World, log: JobLog) -> None:
    fast, slow = Client(), Client(most=0)
    quick, late = _seat(world, fast), _seat(world, slow)
    assert await quick.join()
    assert await late.join()
    every = [at(position) for position in range(1, 401)]
    await log.add(400)
    # More than is held for anybody: who takes nothing has missed most of it.
    assert await fast.until(400) == every
    assert slow.heard == []
    assert log.followed == 1
    await slow.take(1_000_000, late)
    await log.add()
    assert await slow.until(401) == [*every, at(401)]
    assert fast.errors == slow.errors == []
    quick.leave()
    late.leave()


async def test_a_token_that_ends_at_once_is_not_asked_for_again_and_again(
    world: World, log: JobLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.streams.EXPIRED_PAUSE_S", 3600.0)
    calls = 0

    async def counted(request: Any, context: Any) -> AsyncIterator[Any]:
        nonlocal calls
        calls += 1
        async for message in log.watch(request, context):
            yield message

    world.behaviour.streams["WatchJob"] = counted
    await log.add()
    client = Client()
    seat = _seat(world, client)
    assert await seat.join()
    assert await client.until(1) == [at(1)]
    # The first call has told something, so the next follows at once. It is taken, and ends before it has told anything.
    await log.fail(Unauthenticated("The token has expired.", ErrorReason.EXPIRED_IDENTITY))
    await log.quiet()
    for _ in range(20):
        assert (await world.http.get("/v1/jobs", headers=ANN)).status_code == 200
    assert calls == 2
    seat.leave()


async def test_who_has_caught_up_is_not_told_again_what_the_stream_tells_others(world: World, log: JobLog) -> None:
    await log.add(20)
    slow, quick = Client(most=1), Client()
    first, second = _seat(world, slow), _seat(world, quick)
    assert await first.join()
    assert await slow.until(1) == [at(1)]
    # The stream waits with the second event, which the other one is told by a call of its own.
    assert await second.join()
    await quick.until(20)
    await slow.take(1_000_000, first)
    await log.add()
    every = [at(position) for position in range(1, 22)]
    assert await quick.until(21) == await slow.until(21) == every
    first.leave()
    second.leave()


@pytest.mark.parametrize("company", [False, True], ids=["who opens a stream", "who joins one"])
async def test_who_goes_at_any_moment_leaves_nothing_open(
    world: World, log: JobLog, monkeypatch: pytest.MonkeyPatch, company: bool
) -> None:
    feeds = world.gateway.context.feeds
    make, made = feeds.watch, []

    def watch(watched: Watched, cursor: str, *, once: bool = False) -> Watch:
        made.append(make(watched, cursor, once=once))
        return made[-1]

    stays = _seat(world, Client())
    if company:
        assert await stays.join()
    monkeypatch.setattr(feeds, "watch", watch)
    for steps in range(30):
        seat = _seat(world, Client())
        joining = asyncio.create_task(seat.join())
        for _ in range(steps):
            await asyncio.sleep(0)
        done = joining.done()
        joining.cancel()
        await asyncio.wait([joining])
        assert done or joining.cancelled(), f"cancelled after {steps} steps, and joined"
        ended = seat.leave()
        if ended is not None:
            await asyncio.wait([ended])
    assert len(made) > 10, "it was cancelled at many moments"
    assert [watch._call for watch in made if watch._call is not None] == []
    stays.leave()
    await asyncio.wait_for(log.quiet(), 5)


async def test_the_service_waits_while_nobody_can_take_more(world: World, log: JobLog) -> None:
    alone, sign = Client(most=5), Client()
    seat, another = _seat(world, alone), _seat(world, sign, b"bob")
    assert await seat.join()
    assert await another.join()
    await log.add(200)
    await alone.until(5)
    # What came in a stream of its own meanwhile would have come in that of the other as well.
    await sign.until(200)
    assert len(alone.heard) == 5
    await alone.take(1_000_000, seat)
    assert await alone.until(200) == [at(position) for position in range(1, 201)]
    # It was never behind, so nothing was asked for twice.
    assert log.once == 0
    seat.leave()
    another.leave()
    await asyncio.wait_for(log.quiet(), 5)
