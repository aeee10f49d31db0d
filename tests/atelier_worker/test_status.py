"""What a process of workers tells at its status port: to a probe, to Prometheus, and to people."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from atelier_worker.engine_events import EngineInfo
from atelier_worker.member import models_of, worker_types_of
from atelier_worker.plans import EnginePlan
from atelier_worker.status_server import StatusServer
from faults.ports import free_port
from tests.atelier_worker import keeping_engine
from tests.atelier_worker.fake_router import LIMIT_S, FakeRouter, within
from tests.atelier_worker.leases import lease
from tests.atelier_worker.scripted_engine import ENGINE
from tests.atelier_worker.several import Several, start_several

ENGINES = f"""
[[engine]]
name = "pictures"
engine = "{keeping_engine.ENGINE}"
[[engine]]
name = "broken"
engine = "{ENGINE.replace("Scripted", "Broken")}"
"""


class Watched:
    """Workers with a status port."""

    def __init__(self, workers: Several, port: int) -> None:
        self.workers = workers
        self.http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=5.0, trust_env=False)

    async def get(self, path: str) -> httpx.Response:
        return await self.http.get(path)

    async def until(self, path: str, status: int) -> httpx.Response:
        """Ask until the answer has a status; the port itself opens a moment after the start."""

        async def asking() -> httpx.Response:
            while True:
                try:
                    answer = await self.http.get(path)
                except httpx.ConnectError:
                    answer = None
                if answer is not None and answer.status_code == status:
                    return answer
                await asyncio.sleep(0.005)

        found: httpx.Response = await within(asking())
        return found


@pytest.fixture
async def watched(tmp_path: Path, router: FakeRouter) -> AsyncIterator[Watched]:
    port = free_port()
    one = Watched(start_several(tmp_path, router, ENGINES, status=f"127.0.0.1:{port}"), port)
    yield one
    await one.http.aclose()
    one.workers.task.cancel()
    await asyncio.gather(one.workers.task, return_exceptions=True)


def engine_named(status: Any, name: str) -> Any:
    return next(one for one in status["engines"] if one["name"] == name)


async def test_a_worker_is_ready_while_it_is_connected(watched: Watched, router: FakeRouter) -> None:
    session = await watched.workers.session("attic-pictures")
    assert (await watched.until("/ready", 200)).text == "ok\n"
    assert (await watched.get("/live")).status_code == 200
    await router.stop()
    session.end()
    lost = await watched.until("/ready", 503)
    assert lost.text == "No worker is connected to a router.\n"
    assert (await watched.get("/live")).status_code == 200


async def test_the_status_names_what_runs_and_what_cannot(watched: Watched) -> None:
    session = await watched.workers.session("attic-pictures")
    await session.say(lease=lease("load base 700"))
    await session.answer(await session.expect("outcome"))
    await session.say(lease=lease("die", job_id="another"))
    await session.expect("outcome")
    while (await session.expect("credits")).free == 0:
        pass
    async with asyncio.timeout(LIMIT_S):
        # The new process tells of its device by itself, soon after it is there.
        while engine_named(status := (await watched.get("/status")).json(), "pictures")["device"] is None:
            pass
    pictures, broken = engine_named(status, "pictures"), engine_named(status, "broken")
    assert (status["live"], status["ready"]) == (True, True)
    assert (pictures["worker_id"], pictures["state"], pictures["connected"]) == ("attic-pictures", "running", True)
    assert (pictures["restarts"], pictures["last_end"]) == (1, "it exited with code 3")
    assert pictures["ends"] == {"finished": 1, "failed": 0, "cancelled": 0, "crashed": 1}
    assert (pictures["models"], pictures["loaded"]) == (["pictures-model"], [])
    assert pictures["device"] == {"device": "cuda:0", "free_bytes": 1000, "total_bytes": 1000}
    assert broken["device"] is None
    assert (broken["state"], broken["connected"]) == ("unusable", False)
    assert broken["reason"].endswith("cannot be made: OSError: the weights are missing.")


async def test_metrics_are_in_the_format_of_prometheus(watched: Watched) -> None:
    session = await watched.workers.session("attic-pictures")
    await session.say(lease=lease("load base 700"))
    await session.answer(await session.expect("outcome"))
    answer = await watched.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = answer.text.splitlines()
    assert 'atelier_worker_tasks_total{engine="pictures",result="finished"} 1' in lines
    assert 'atelier_worker_loaded_bytes{engine="pictures",model="base",device="cuda:0"} 700' in lines
    assert 'atelier_worker_device_free_bytes{engine="pictures",device="cuda:0"} 300' in lines
    assert 'atelier_worker_device_total_bytes{engine="pictures",device="cuda:0"} 1000' in lines
    assert not [line for line in lines if "device" in line and "broken" in line]
    assert 'atelier_worker_connected{engine="pictures"} 1' in lines
    assert 'atelier_worker_connected{engine="broken"} 0' in lines
    assert 'atelier_worker_engine_restarts_total{engine="pictures"} 0' in lines
    named = {line.split("{")[0] for line in lines if not line.startswith("#")}
    assert named <= {line.split()[2] for line in lines if line.startswith("# TYPE")}


async def test_what_is_not_there_is_said(watched: Watched) -> None:
    missing = await watched.until("/", 404)
    assert missing.text == "There are /live, /ready, /metrics and /status.\n"
    assert (await watched.http.post("/live")).status_code == 405


async def test_who_only_connects_keeps_nobody_out() -> None:
    server = StatusServer("127.0.0.1:0", [], patience_s=60)
    await server.start()
    held = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(40)]
    try:
        assert (await ask(server, b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        # The first ones had to go.
        with contextlib.suppress(ConnectionResetError):
            assert await within(held[0][0].read()) == b""
        assert not held[-1][0].at_eof()
    finally:
        for _, writer in held:
            writer.close()
        await server.stop()


async def test_a_request_that_does_not_come_is_not_waited_for() -> None:
    server = StatusServer("127.0.0.1:0", [], patience_s=0.02)
    await server.start()
    try:
        assert (await ask(server, b"GET /live")).startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    finally:
        await server.stop()


REQUESTS = [
    (b"GET /live HTTP/1.1\r\nx: " + b"y" * 9000 + b"\r\n\r\n", b"431 Request Header Fields Too Large"),
    (b"GET /live HTTP/1.1\r\nx: " + b"y" * 100_000, b"431 Request Header Fields Too Large"),
    (b"\x16\x03\x01\x02\x00\r\n\r\n", b"400 Bad Request"),
    (b"GET /live\r\n\r\n", b"400 Bad Request"),
    (b"GET / HTTP/1.0\r\n\r\n", b"404 Not Found"),
    (b"DELETE /status HTTP/1.1\r\n\r\n", b"405 Method Not Allowed"),
]


@pytest.mark.parametrize(("request_", "status"), REQUESTS, ids=[row[1].decode() for row in REQUESTS])
async def test_a_request_that_is_none_is_answered_and_the_next_one_too(request_: bytes, status: bytes) -> None:
    server = StatusServer("127.0.0.1:0", [])
    await server.start()
    try:
        assert (await ask(server, request_)).startswith(b"HTTP/1.1 " + status + b"\r\n")
        head = await ask(server, b"HEAD /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert head.endswith(b"\r\n\r\n")
    finally:
        await server.stop()


async def ask(server: StatusServer, request: bytes) -> bytes:
    """Return the whole answer to what was sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(request)
    try:
        answer: bytes = await within(reader.read())
        return answer
    finally:
        writer.close()


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("7490", {}, "[worker]: status takes host:port such as 127.0.0.1:7490, got '7490'."),
    (
        "0.0.0.0:7490",
        {},
        "[worker]: status would listen at 0.0.0.0:7490, beyond this machine, without TLS and for everybody. Keep it at "
        "127.0.0.1, or set insecure = true if the network is yours alone.",
    ),
]


@pytest.mark.parametrize(("listen", "more", "sentence"), WRONG)
async def test_an_address_that_cannot_be_used_ends_the_process(
    tmp_path: Path, router: FakeRouter, capsys: pytest.CaptureFixture[str], listen: str, more: Any, sentence: str
) -> None:
    workers = start_several(tmp_path, router, ENGINES, status=listen, **more)
    assert await workers.exit_code() == 2
    assert capsys.readouterr().err == f"{sentence}\n"


async def test_a_port_that_is_taken_ends_the_process(
    tmp_path: Path, router: FakeRouter, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert await start_several(tmp_path, router, ENGINES, status=f"127.0.0.1:{port}").exit_code() == 2
    assert f"[worker]: status cannot listen at 127.0.0.1:{port}: " in capsys.readouterr().err


async def test_a_port_beyond_this_machine_is_allowed_on_demand(tmp_path: Path, router: FakeRouter) -> None:
    port = free_port()
    watched = Watched(start_several(tmp_path, router, ENGINES, status=f"0.0.0.0:{port}", insecure=True), port)
    await watched.until("/live", 200)
    await watched.http.aclose()
    watched.workers.stop.set()
    assert await watched.workers.exit_code() == 0


def test_what_a_worker_serves_is_said_by_its_plan_else_by_its_engine() -> None:
    plan = EnginePlan("e", "sketch", {}, "attic-e")
    told = EnginePlan("e", "sketch", {}, "attic-e", worker_types=("wan",), models=("mine",))
    says, silent = (EngineInfo("sketch", 1, types, (), types) for types in (("sdxl",), ()))
    assert [worker_types_of(told, says), models_of(told, says)] == [("wan",), ("mine",)]
    assert [worker_types_of(plan, says), models_of(plan, says)] == [("sdxl",), ("sdxl",)]
    assert [worker_types_of(plan, silent), models_of(plan, silent)] == [("chat", "sdxl", "wan"), ()]
