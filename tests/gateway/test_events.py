"""The merged stream of `/v1/events`: names, ids that resume every source, sources that go and come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from typing import Any

import pytest

from atelier.asset.v1 import asset_pb2, asset_service_pb2
from atelier.library.v1 import library_service_pb2
from atelier.router.v1 import job_pb2, router_service_pb2
from gateway import events as merged
from gateway.events import decode_cursors, encode_cursors
from service_kit.errors import ResourceExhausted
from tests.gateway.conftest import World
from tests.gateway.fakes import ANN
from tests.gateway.sse import Event, events

OPEN = (("atelier-stream", "open"),)


def _say(world: World, rpc: str, *messages: Any) -> asyncio.Queue[Any]:
    """Let a watch RPC send these messages to everybody, and then what is put into the queue."""
    later: asyncio.Queue[Any] = asyncio.Queue()

    async def watch(request: Any, context: Any) -> AsyncIterator[Any]:
        await context.send_initial_metadata(OPEN)
        for message in messages:
            yield message
        while True:
            yield await later.get()

    world.behaviour.streams[rpc] = watch
    return later


def _published(cursor: str) -> asset_service_pb2.WatchAssetsResponse:
    return asset_service_pb2.WatchAssetsResponse(cursor=cursor, published=asset_pb2.Asset(asset_id="a1"))


def _job(cursor: str) -> router_service_pb2.WatchJobsResponse:
    return router_service_pb2.WatchJobsResponse(cursor=cursor, state=job_pb2.Job(job_id="j1"))


def _saved(cursor: str) -> library_service_pb2.WatchItemsResponse:
    return library_service_pb2.WatchItemsResponse(cursor=cursor, saved=library_service_pb2.Item(item_id="i1"))


async def _take(lines: AsyncIterator[Event], *names: str) -> dict[str, Event]:
    """Read until every name was seen; return the last event of each."""
    found: dict[str, Event] = {}
    async with asyncio.timeout(10):
        while not set(names) <= set(found):
            event = await anext(lines)
            found[event.name] = event
    return found


async def test_three_sources_come_through_one_stream(world: World) -> None:
    jobs = _say(world, "WatchJobs")
    assets = _say(world, "WatchAssets")
    items = _say(world, "WatchItems")
    async with world.http.stream("GET", "/v1/events", headers=ANN) as response, aclosing(events(response)) as lines:
        assert response.status_code == 200
        jobs.put_nowait(_job("job-cursor"))
        first = (await _take(lines, "jobs.state"))["jobs.state"]
        assert decode_cursors(first.id) == {"jobs": "job-cursor"}
        assets.put_nowait(_published("asset-cursor"))
        await _take(lines, "assets.published")
        items.put_nowait(_saved("item-cursor"))
        last = (await _take(lines, "items.saved"))["items.saved"]
        assert last.data["saved"]["item_id"] == "i1"
        assert decode_cursors(last.id) == {"jobs": "job-cursor", "assets": "asset-cursor", "items": "item-cursor"}
        progress = router_service_pb2.WatchJobsResponse(progress=router_service_pb2.Progress(step=1))
        jobs.put_nowait(progress)
        # What cannot be resumed after has no id, or a browser would forget the one that can.
        assert (await _take(lines, "jobs.progress"))["jobs.progress"].id == ""


async def test_a_stream_resumes_each_source_where_it_was(world: World) -> None:
    for rpc, message in (("WatchJobs", _job("c")), ("WatchAssets", _published("c")), ("WatchItems", _saved("c"))):
        _say(world, rpc, message)
    everything = ("jobs.state", "assets.published", "items.saved")
    header = encode_cursors({"jobs": "j", "assets": "a", "items": "i"})
    older = encode_cursors({"jobs": "old", "assets": "old", "items": "old"})
    for headers, wanted in (({}, ["old"] * 3), ({"last-event-id": header}, ["j", "a", "i"])):
        async with world.http.stream("GET", f"/v1/events?after={older}", headers=ANN | headers) as response:
            await _take(events(response), *everything)
        seen = [world.behaviour.last(rpc).request.after for rpc in ("WatchJobs", "WatchAssets", "WatchItems")]
        assert seen == wanted


@pytest.mark.parametrize("cursor", ["nonsense", "e30", "bnVsbA", "eyJ2Ijo5OX0", "a" * 9000, "%C3%A4"])
async def test_an_unknown_cursor_begins_anew(world: World, cursor: str) -> None:
    _say(world, "WatchJobs", _job("c"))
    async with world.http.stream("GET", f"/v1/events?after={cursor}", headers=ANN) as response:
        assert response.status_code == 200
        await _take(events(response), "jobs.state")
    assert world.behaviour.last("WatchJobs").request.after == ""


async def test_a_source_that_is_down_says_so_and_the_others_go_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merged, "_LONGEST_PAUSE", 0.1)
    jobs = _say(world, "WatchJobs")
    _say(world, "WatchItems", _saved("item-cursor"))
    async with world.http.stream("GET", "/v1/events", headers=ANN) as response, aclosing(events(response)) as lines:
        await _take(lines, "items.saved")
        library = world.services.servers["library"]
        await library.stop()
        down = await _take(lines, "unavailable")
        assert down["unavailable"].data == {"source": "items"}
        jobs.put_nowait(_job("while-down"))
        await _take(lines, "jobs.state")
        world.services.servers["library"] = world.services.make("library", library.target)
        await world.services.servers["library"].start()
        back = await _take(lines, "resync", "items.saved")
        assert back["resync"].data == {"source": "items"}
        assert world.behaviour.last("WatchItems").request.after == "item-cursor"


async def test_a_source_that_has_too_many_to_serve_is_asked_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merged, "_FIRST_PAUSE", 0.01)
    served = 0

    async def watch(request: Any, context: Any) -> AsyncIterator[Any]:
        nonlocal served
        served += 1
        if served < 3:
            raise ResourceExhausted("8192 requests of this kind wait already; repeat in a moment.")
        yield _job("job-cursor")
        await asyncio.Event().wait()

    world.behaviour.streams["WatchJobs"] = watch
    _say(world, "WatchItems", _saved("item-cursor"))
    async with world.http.stream("GET", "/v1/events", headers=ANN) as response, aclosing(events(response)) as lines:
        seen = await _take(lines, "unavailable", "jobs.state")
        assert seen["unavailable"].data == {"source": "jobs"}
    assert served == 3


async def test_the_end_of_a_token_is_not_seen(world: World) -> None:
    world.behaviour.token_ttl = timedelta(seconds=2)
    numbers = iter(range(100))

    async def watch(request: Any, context: Any) -> AsyncIterator[Any]:
        await context.send_initial_metadata(OPEN)
        yield _job(f"c{next(numbers)}")
        await asyncio.Event().wait()

    world.behaviour.streams["WatchJobs"] = watch
    names = []
    async with world.http.stream("GET", "/v1/events", headers=ANN) as response, aclosing(events(response)) as lines:
        async for event in lines:
            names.append(event.name)
            if names.count("jobs.state") == 2:
                break
    assert names == ["comment", "jobs.state", "jobs.state"]
    assert [call.request.after for call in world.behaviour.seen["WatchJobs"]][:2] == ["", "c0"]


async def test_a_refusal_is_an_http_error(world: World) -> None:
    missing = await world.http.get("/v1/events")
    assert (missing.status_code, missing.json()["error"]["reason"]) == (401, "missing_identity")
    worker = await world.http.get("/v1/events", headers={"x-api-key": "atl_worker"})
    assert (worker.status_code, worker.json()["error"]["reason"]) == (403, "access_denied")
    unknown = await world.http.get("/v1/events?since=1", headers=ANN)
    assert (unknown.status_code, unknown.json()["error"]["fields"][0]["field"]) == (400, "since")


async def test_a_client_that_goes_cancels_every_source(world: World) -> None:
    ended: asyncio.Queue[str] = asyncio.Queue()

    def watching(name: str, message: Any) -> Any:
        async def watch(request: Any, context: Any) -> AsyncIterator[Any]:
            await context.send_initial_metadata(OPEN)
            try:
                yield message
                await asyncio.Event().wait()
            finally:
                ended.put_nowait(name)

        return watch

    world.behaviour.streams |= {
        "WatchJobs": watching("jobs", _job("c")),
        "WatchAssets": watching("assets", _published("c")),
        "WatchItems": watching("items", _saved("c")),
    }
    async with world.http.stream("GET", "/v1/events", headers=ANN) as response:
        await _take(events(response), "jobs.state", "assets.published", "items.saved")
        assert ended.empty()
    async with asyncio.timeout(5):
        assert {await ended.get() for _ in range(3)} == {"jobs", "assets", "items"}


@pytest.mark.parametrize("cursor", ["\ud800", "é", "x" * 513])
async def test_a_made_up_cursor_is_as_none_at_all(world: World, cursor: str) -> None:
    """Such a text fits into no request: the source begins with its snapshot, and no other one is left running."""
    seen: list[str] = []

    async def watch(request: Any, context: Any) -> AsyncIterator[Any]:
        seen.append(request.after)
        await context.send_initial_metadata(OPEN)
        yield _saved("first")

    world.behaviour.streams["WatchItems"] = watch
    after = encode_cursors({"items": cursor})
    async with (
        world.http.stream("GET", f"/v1/events?after={after}", headers=ANN) as response,
        aclosing(events(response)) as lines,
    ):
        assert response.status_code == 200
        await _take(lines, "items.saved")
    assert seen[0] == ""


async def test_a_cursor_that_is_given_twice_is_refused(world: World) -> None:
    response = await world.http.get("/v1/events?after=a&after=b", headers=ANN)
    assert (response.status_code, response.json()["error"]["message"]) == (400, "after is given twice")
