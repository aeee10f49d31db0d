"""A server and a channel as every service uses them, over real gRPC: health, streams, draining, ports."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from atelier.asset.v1 import asset_service_pb2 as asset_pb2
from service_kit import channels
from service_kit.errors import (
    FailedPrecondition,
    Unavailable,
)
from service_kit.health import HealthBoard, follow
from service_kit.rpc_errors import dependency_error
from service_kit.server import GrpcServer, is_loopback
from tests.service_kit.serving import Assets, House, all_of, failing

STEPS = 12


async def test_the_health_of_a_dependency_is_followed(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service_kit.health._LOOK_AGAIN_S", 0.01)
    board = HealthBoard()
    board.start(())
    async with channels.connect(house.server.target) as channel:
        task = asyncio.create_task(follow(channel, board, "asset_service", required=True))
        async with asyncio.timeout(5):
            for serving in (True, False, True):
                house.health.set("database", serving)
                while board.statuses().get("dependency/asset_service") != (1 if serving else 2):
                    await board.changed()
                assert board.serving is serving
            await house.server.stop()
            while board.statuses().get("dependency/asset_service") != 2:
                await board.changed()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_stream_ends_when_its_token_expires(house: House) -> None:
    house.streams_clock.advance(timedelta(minutes=4, seconds=58.95))
    async with house.channel() as channel:
        call = house.watch(channel)
        assert await call.read() is not grpc.aio.EOF
        error = await failing(all_of(call))
    assert error.reason == "expired_identity"
    assert house.assets.closed.is_set()


async def test_a_client_that_goes_closes_its_stream_at_once(house: House) -> None:
    async with house.channel() as channel:
        call = house.watch(channel)
        await call.read()
        call.cancel()
        async with asyncio.timeout(5):
            await house.assets.closed.wait()


async def test_health_tells_what_depends_on_what(house: House) -> None:
    house.health.set("database", True)
    house.health.set("router", False, "connection refused", required=False)
    async with channels.connect(house.server.target) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        listed = (await stub.List(health_pb2.HealthListRequest())).statuses  # type: ignore[attr-defined]
        found = {name: entry.status for name, entry in listed.items()}
        assert found == {
            "": 1,
            "atelier.asset.v1.AssetService": 1,
            "atelier.asset.v1.UploadService": 1,
            "dependency/database": 1,
            "dependency/router": 2,
        }
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=""))
        assert (await watch.read()).status == 1
        house.health.set("database", False, "disk full")
        assert (await watch.read()).status == 2
        checked = await stub.Check(health_pb2.HealthCheckRequest(service="atelier.asset.v1.AssetService"))
        assert checked.status == 2
        watch.cancel()


async def test_a_server_that_stops_says_so_and_lets_streams_go(house: House, caplog: pytest.LogCaptureFixture) -> None:
    told: list[bool] = []

    async def broken() -> None:
        raise RuntimeError("a fault of ours")

    async def hook() -> None:
        told.append(house.health.serving)

    house.server.on_drain(broken)
    house.server.on_drain(hook)
    async with house.channel() as channel:
        call = house.watch(channel)
        await call.read()
        stopping = asyncio.create_task(house.server.stop())
        error = await failing(all_of(call))
        await stopping
    assert isinstance(error, Unavailable)
    assert error.retry_after == timedelta(seconds=1)
    assert told == [False]
    assert "drain_fault" in caplog.text


@pytest.mark.parametrize("begins", ["metadata", "message"])
async def test_a_stream_that_is_cut_off_says_why_at_whatever_step_that_is(tmp_path: Path, begins: str) -> None:
    cut = CutOff(begins)  # type: ignore[abstract]
    house = House(tmp_path, cut)
    await house.server.start()
    reasons: list[tuple[int, str]] = []
    async with house.channel() as channel:
        async with asyncio.timeout(20):
            for cut.steps in range(STEPS):
                reasons.append((cut.steps, (await failing(all_of(house.watch(channel)))).message))
    await house.server.stop()
    assert reasons == [(steps, "Cut off.") for steps in range(STEPS)]


class CutOff(Assets):
    """Sends what a stream begins with, and ends it so many steps of the loop later."""

    def __init__(self, begins: str) -> None:
        super().__init__()
        self.steps = 0
        self._begins = begins

    async def WatchAssets(self, request: Any, context: Any) -> None:  # type: ignore[override]
        message, metadata = asset_pb2.WatchAssetsResponse(), (("state", "open"),)
        sent = context.write(message) if self._begins == "message" else context.send_initial_metadata(metadata)
        sending = asyncio.ensure_future(sent)
        for _ in range(self.steps):
            await asyncio.sleep(0)
        sending.cancel()
        await asyncio.wait([sending])
        raise Unavailable("Cut off.")


async def test_a_port_that_is_taken_is_a_sentence(house: House) -> None:
    second = GrpcServer(
        "router",
        listen=house.server.target,
        servicers=[],
        verifier=house.rings.identity_verifier(house.clock),
        health=HealthBoard(),
    )
    with pytest.raises(FailedPrecondition, match=r"the port is in use.*ATELIER_ROUTER_LISTEN"):
        await second.start()


async def test_listening_beyond_the_machine_needs_leave(house: House, caplog: pytest.LogCaptureFixture) -> None:
    def server(insecure: bool) -> GrpcServer:
        verifier = house.rings.identity_verifier(house.clock)
        return GrpcServer(
            "router", listen="0.0.0.0:0", servicers=[], verifier=verifier, health=HealthBoard(), insecure=insecure
        )

    with pytest.raises(FailedPrecondition, match="ATELIER_INSECURE"):
        await server(False).start()
    allowed = server(True)
    await allowed.start()
    await allowed.stop()
    assert "listening_without_tls" in caplog.text


@pytest.mark.parametrize(
    ("listen", "expected"),
    [
        ("127.0.0.1:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("example.org:1", False),
    ],
)
def test_loopback(listen: str, expected: bool) -> None:
    assert is_loopback(listen) is expected


async def test_a_service_that_is_gone_is_unavailable_and_tells_no_address(house: House) -> None:
    await house.server.stop()
    async with house.channel() as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await house.get_asset(channel)
        error = dependency_error(caught.value)
        assert type(error) is Unavailable
        assert "127.0.0.1" not in error.message
        with pytest.raises(Unavailable):
            await channels.wait_ready(channel, timedelta(milliseconds=50))
