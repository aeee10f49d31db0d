"""Server-sent events of one RPC: the first byte, resuming, ending, breaking, and who is told when the client goes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

from atelier.router.v1 import job_pb2, router_service_pb2
from gateway.sse import PING_INTERVAL
from service_kit.errors import ErrorReason, NotFound, Unavailable
from tests.gateway.conftest import MakeWorld, World
from tests.gateway.fakes import ANN
from tests.gateway.sse import events

OPEN = (("atelier-stream", "open"),)
ENDED = (("atelier-stream", "ended"),)
URL = "/v1/jobs/j1/events"


def state(cursor: str, version: int) -> router_service_pb2.WatchJobResponse:
    return router_service_pb2.WatchJobResponse(cursor=cursor, state=job_pb2.Job(job_id="j1", version=version))


async def test_the_first_byte_comes_before_any_event(world: World) -> None:
    released = asyncio.Event()

    async def watch(request: Any, context: Any) -> AsyncIterator[Any]:
        await context.send_initial_metadata(OPEN)
        await released.wait()
        yield state("c1", 1)

    world.behaviour.streams["WatchJob"] = watch
    began = time.monotonic()
    async with world.http.stream("GET", URL, headers=ANN) as response:
        lines = events(response)
        first = await anext(lines)
        waited = time.monotonic() - began
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-accel-buffering"] == "no"
        assert "no-cache" in response.headers["cache-control"]
        assert first.text == "open"
        assert waited < PING_INTERVAL.total_seconds()
        released.set()
        second = await anext(lines)
        assert (second.name, second.id, second.data["state"]["version"]) == ("state", "c1", 1)


async def test_each_event_is_flushed_when_it_happens(world: World) -> None:
    steps: asyncio.Queue[Any] = asyncio.Queue()

    async def watch(request: Any, context: Any) -> AsyncIterator[Any]:
        await context.send_initial_metadata(OPEN)
        while (message := await steps.get()) is not None:
            yield message

    world.behaviour.streams["WatchJob"] = watch
    async with world.http.stream("GET", URL, headers=ANN) as response:
        lines = events(response)
        await anext(lines)
        for number in range(1, 4):
            # The next message is only made when the last one was read: nothing may wait in a buffer.
            steps.put_nowait(state(f"c{number}", number))
            event = await asyncio.wait_for(anext(lines), 5)
            assert event.id == f"c{number}"
        progress = router_service_pb2.WatchJobResponse(progress=router_service_pb2.Progress(step=3, steps=8))
        steps.put_nowait(progress)
        event = await asyncio.wait_for(anext(lines), 5)
        assert (event.name, event.id) == ("progress", "")
        steps.put_nowait(None)
        assert [rest async for rest in lines] == []


async def test_the_header_wins_over_the_query(world: World) -> None:
    async def watch(request: Any, context: Any) -> AsyncIterator[Any]:
        await context.send_initial_metadata(OPEN)
        yield state("c9", 9)

    world.behaviour.streams["WatchJob"] = watch
    await world.http.get(URL + "?after=old", headers=ANN)
    assert world.behaviour.last("WatchJob").request.after == "old"
    await world.http.get(URL + "?after=old", headers={**ANN, "last-event-id": "new"})
    assert world.behaviour.last("WatchJob").request.after == "new"
    assert world.behaviour.last("WatchJob").request.job_id == "j1"
    await world.http.get(URL, headers={**ANN, "last-event-id": "x" * 600})
    assert world.behaviour.last("WatchJob").request.after == ""
    # A field that is too long is for the service to refuse.
    refused = await world.http.get(f"{URL}?after={'x' * 600}", headers=ANN)
    assert refused.status_code == 400
    assert "after" in refused.text


async def test_after_the_last_event_there_is_204(world: World) -> None:
    async def watch(request: Any, context: Any) -> AsyncIterator[Any]:
        await context.send_initial_metadata(ENDED)
        if request.after != "last":
            yield state("c1", 1)

    world.behaviour.streams["WatchJob"] = watch
    response = await world.http.get(URL, headers={**ANN, "last-event-id": "last"})
    assert (response.status_code, response.content) == (204, b"")


async def test_an_error_before_the_first_event_is_an_http_error(world: World) -> None:
    async def watch(request: Any, context: Any) -> AsyncIterator[Any]:
        if request.job_id:
            raise NotFound.of("job", request.job_id)
        yield state("c1", 1)

    world.behaviour.streams["WatchJob"] = watch
    response = await world.http.get(URL, headers=ANN)
    assert response.status_code == 404
    assert response.json()["error"]["reason"] == "not_found"


async def test_an_error_after_it_is_an_event_and_the_end(world: World) -> None:
    async def watch(request: Any, context: Any) -> AsyncIterator[Any]:
        await context.send_initial_metadata(OPEN)
        yield state("c1", 1)
        raise Unavailable("The database is away.", retry_after=timedelta(seconds=3))

    world.behaviour.streams["WatchJob"] = watch
    async with world.http.stream("GET", URL, headers=ANN) as response:
        found = [event async for event in events(response)]
    assert [event.name for event in found] == ["comment", "state", "error"]
    error = found[-1].data["error"]
    assert (error["status"], error["retry_after"]) == ("UNAVAILABLE", 3.0)
    assert error["reason"] == ErrorReason.SERVICE_UNAVAILABLE.value
    assert error["request_id"] == response.headers["x-request-id"]


async def test_a_stream_without_a_declared_state_begins_with_its_first_message(world: World) -> None:
    async def watch(request: Any, context: Any) -> AsyncIterator[Any]:
        yield state("c1", 1)

    world.behaviour.streams["WatchJob"] = watch
    async with world.http.stream("GET", URL, headers=ANN) as response:
        assert [event.name async for event in events(response)] == ["comment", "state"]


async def test_a_client_that_goes_cancels_the_call(world: World) -> None:
    cancelled = asyncio.Event()

    async def watch(request: Any, context: Any) -> AsyncIterator[Any]:
        await context.send_initial_metadata(OPEN)
        try:
            yield state("c1", 1)
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    world.behaviour.streams["WatchJob"] = watch
    async with world.http.stream("GET", URL, headers=ANN) as response:
        lines = events(response)
        while (await anext(lines)).name != "state":
            pass
        assert not cancelled.is_set()
    await asyncio.wait_for(cancelled.wait(), 5)


async def test_the_end_of_a_token_is_not_seen(make_world: MakeWorld) -> None:
    world = await make_world()
    world.behaviour.token_ttl = timedelta(seconds=2)
    versions = iter(range(1, 100))

    async def watch(request: Any, context: Any) -> AsyncIterator[Any]:
        await context.send_initial_metadata(OPEN)
        version = next(versions)
        yield state(f"c{version}", version)
        await asyncio.Event().wait()

    world.behaviour.streams["WatchJob"] = watch
    found = []
    async with world.http.stream("GET", URL + "?after=start", headers=ANN) as response:
        async for event in events(response):
            found.append((event.name, event.id))
            if len(found) == 4:
                break
    assert found == [("comment", ""), ("state", "c1"), ("state", "c2"), ("state", "c3")]
    # Each call resumes where the one before it ended, with a token of its own.
    calls = world.behaviour.seen["WatchJob"]
    assert [call.request.after for call in calls[:3]] == ["start", "c1", "c2"]
    assert len({call.metadata["authorization"] for call in calls[:3]}) == 3


async def test_a_quiet_stream_is_kept_alive(world: World) -> None:
    world.gateway.context.ping_interval = timedelta(milliseconds=20)
    async with world.http.stream("GET", URL, headers=ANN) as response:
        lines = events(response)
        assert [(await anext(lines)).text for _ in range(3)] == ["open", "ping", "ping"]


async def test_streams_end_when_the_gateway_stops(world: World) -> None:
    async with world.http.stream("GET", URL, headers=ANN) as response:
        lines = events(response)
        await anext(lines)
        began = time.monotonic()
        stopping = asyncio.create_task(world.gateway.stop())
        assert [event async for event in lines] == []
        await asyncio.wait_for(stopping, 5)
        assert time.monotonic() - began < 4
