"""A server and a channel as every service uses them, over real gRPC: identity, errors, limits, health, draining."""

from __future__ import annotations

import asyncio
import errno
import sqlite3
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sqlalchemy.exc import OperationalError

from atelier.asset.v1 import asset_pb2 as asset_type_pb2
from atelier.asset.v1 import asset_service_pb2 as asset_pb2
from atelier.asset.v1 import asset_service_pb2_grpc as asset_grpc
from atelier.asset.v1 import upload_service_pb2 as upload_pb2
from atelier.asset.v1 import upload_service_pb2_grpc as upload_grpc
from service_kit import channels
from service_kit.capabilities import Capabilities, LeaseClaims, current_lease
from service_kit.clock import ManualClock, SystemClock
from service_kit.errors import (
    AtelierError,
    ErrorReason,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from service_kit.health import HealthBoard, follow
from service_kit.identity import (
    IdentitySigner,
    IssuedToken,
    KeyKind,
    Owner,
    TokenSource,
    current_caller,
    on_behalf_of,
)
from service_kit.ids import new_id
from service_kit.interceptors import current_request_id
from service_kit.keyring import Keyrings
from service_kit.rpc_errors import dependency_error, from_rpc_error
from service_kit.server import GrpcServer, is_loopback

ANN = Owner("default", "ann")
BOB = Owner("default", "bob")


class Assets(asset_grpc.AssetServiceServicer):
    """Answers with what the test sets up."""

    def __init__(self) -> None:
        self.failure: BaseException | None = None
        self.stuck = asyncio.Event()
        self.closed = asyncio.Event()
        self.seen: list[tuple[str, str]] = []

    async def GetAsset(self, request: asset_pb2.GetAssetRequest, context: Any) -> asset_pb2.GetAssetResponse:
        self.seen.append((current_caller().owner.owner_id, current_request_id()))
        if self.failure is not None:
            raise self.failure
        if request.asset_id == "stuck":
            await self.stuck.wait()
        return asset_pb2.GetAssetResponse()

    async def WatchAssets(
        self, request: asset_pb2.WatchAssetsRequest, context: Any
    ) -> AsyncIterator[asset_pb2.WatchAssetsResponse]:
        try:
            yield asset_pb2.WatchAssetsResponse()
            if self.failure is not None:
                raise self.failure
            await self.stuck.wait()
        finally:
            self.closed.set()


class Uploads(upload_grpc.UploadServiceServicer):
    """Tells which job the lease is for."""

    async def StartUpload(self, request: upload_pb2.StartUploadRequest, context: Any) -> upload_pb2.StartUploadResponse:
        return upload_pb2.StartUploadResponse(upload_id=current_lease().job_id)

    async def CreateUpload(
        self, request_iterator: AsyncIterator[upload_pb2.CreateUploadRequest], context: Any
    ) -> upload_pb2.CreateUploadResponse:
        size = sum([len(message.data) async for message in request_iterator])
        return upload_pb2.CreateUploadResponse(asset=asset_type_pb2.Asset(asset_id=str(size)))


class House:
    """A running server and what is needed to call it."""

    def __init__(self, folder: Path) -> None:
        self.rings = Keyrings(folder / "keys")
        self.clock = SystemClock()
        self.streams_clock = ManualClock(self.clock.now())
        self.signer: IdentitySigner = self.rings.identity_signer(self.clock)
        self.capabilities: Capabilities = self.rings.capabilities(self.clock)
        self.health = HealthBoard()
        self.assets = Assets()  # type: ignore[abstract]
        self.server = GrpcServer(
            "asset",
            listen="127.0.0.1:0",
            servicers=[
                (asset_grpc.add_AssetServiceServicer_to_server, self.assets),
                (upload_grpc.add_UploadServiceServicer_to_server, Uploads()),  # type: ignore[abstract]
            ],
            verifier=self.rings.identity_verifier(self.clock),
            health=self.health,
            capabilities=self.capabilities,
            grace=timedelta(seconds=1),
            unary_limit=timedelta(milliseconds=300),
            idle_limit=timedelta(milliseconds=300),
            reflection=True,
            clock=self.streams_clock,
        )

    def channel(self, owner: Owner = ANN, kind: KeyKind = KeyKind.USER, **options: Any) -> grpc.aio.Channel:
        async def exchange() -> IssuedToken:
            return self.signer.issue(owner=owner, kind=kind, key_id="k", **options)

        return channels.connect(self.server.target, tokens=TokenSource(exchange, self.clock))

    def get_asset(self, channel: grpc.aio.Channel, asset_id: str = "a", **options: Any) -> Any:
        return asset_grpc.AssetServiceStub(channel).GetAsset(asset_pb2.GetAssetRequest(asset_id=asset_id), **options)

    def watch(self, channel: grpc.aio.Channel) -> Any:
        return asset_grpc.AssetServiceStub(channel).WatchAssets(asset_pb2.WatchAssetsRequest())


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    await house.server.start()
    yield house
    await house.server.stop()


async def failing(call: Any) -> AtelierError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


async def test_a_known_caller_is_served_and_gets_the_request_id_back(house: House) -> None:
    async with house.channel() as channel:
        call = house.get_asset(channel, metadata=(("x-request-id", "mine-1"),))
        await call
        assert dict(await call.trailing_metadata())["x-request-id"] == "mine-1"
        await house.get_asset(channel, metadata=(("x-request-id", "two words"),))
    assert house.assets.seen[0] == ("ann", "mine-1")
    assert " " not in house.assets.seen[1][1]
    assert len(house.assets.seen[1][1]) == 36


async def test_a_call_without_identity_or_with_a_wrong_one_is_refused(house: House, tmp_path: Path) -> None:
    foreign = Keyrings(tmp_path / "other").identity_signer(house.clock).issue(owner=ANN, kind=KeyKind.USER, key_id="k")
    async with channels.connect(house.server.target) as channel:
        missing = await failing(house.get_asset(channel))
        wrong = await failing(
            house.get_asset(channel, metadata=(("authorization", f"Bearer {foreign.token.reveal()}"),))
        )
    assert isinstance(missing, Unauthenticated)
    assert missing.reason == "missing_identity"
    assert isinstance(wrong, Unauthenticated)
    assert wrong.reason == "invalid_identity"
    assert house.assets.seen == []


async def test_a_scope_that_is_not_enough_is_refused(house: House) -> None:
    async with house.channel(kind=KeyKind.WORKER) as channel:
        error = await failing(house.get_asset(channel))
    assert error.reason == "access_denied"
    assert "use" in error.message


async def test_only_who_may_act_for_others_does(house: House) -> None:
    async with house.channel(Owner("default", "crm"), KeyKind.INTERNAL) as channel:
        await house.get_asset(channel, metadata=on_behalf_of(BOB))
        foreign = await failing(house.get_asset(channel, metadata=on_behalf_of(Owner("other", "bob"))))
    async with house.channel() as channel:
        plain = await failing(house.get_asset(channel, metadata=on_behalf_of(BOB)))
    async with house.channel(Owner("default", "library"), KeyKind.SERVICE) as channel:
        await house.get_asset(channel, metadata=on_behalf_of(Owner("other", "Ä/b")))
    assert [owner for owner, _ in house.assets.seen] == ["bob", "Ä/b"]
    assert foreign.reason == plain.reason == "access_denied"


async def test_a_lease_token_opens_uploads_and_nothing_else(house: House) -> None:
    expires_at = house.clock.now() + timedelta(minutes=1)
    claims = LeaseClaims(new_id(), 0, 1, ANN, 6, 1000, ("image",), (), expires_at)
    token = (("atelier-lease-token", house.capabilities.sign_lease(claims)),)
    request = upload_pb2.StartUploadRequest(asset_index=0, size_bytes=1, sha256="0" * 64)
    async with house.channel() as channel:
        stub = upload_grpc.UploadServiceStub(channel)
        assert (await stub.StartUpload(request, metadata=token)).upload_id == claims.job_id
        assert (await failing(stub.StartUpload(request))).reason == "invalid_lease"
        wrong = (("atelier-lease-token", token[0][1] + "x"),)
        assert (await failing(stub.StartUpload(request, metadata=wrong))).reason == "invalid_lease"
    async with channels.connect(house.server.target) as channel:
        assert (await failing(house.get_asset(channel, metadata=token))).reason == "missing_identity"


async def test_a_domain_error_arrives_whole(house: House) -> None:
    house.assets.failure = ResourceExhausted("Too many.", retry_after=timedelta(seconds=7))
    async with house.channel() as channel:
        error = await failing(house.get_asset(channel))
    assert type(error) is ResourceExhausted
    assert (error.message, error.reason, error.retry_after) == ("Too many.", "limit_reached", timedelta(seconds=7))


async def test_a_limit_of_the_contract_is_enforced_before_the_servicer_runs(house: House) -> None:
    async with house.channel() as channel:
        error = await failing(house.get_asset(channel, ""))
    assert isinstance(error, InvalidArgument)
    assert [problem.field for problem in error.fields] == ["asset_id"]
    assert house.assets.seen == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_fault_tells_the_client_nothing_but_its_request_id(
    house: House, stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    house.assets.failure = RuntimeError("password=hunter2")
    async with house.channel() as channel:
        call = house.watch(channel) if stream else house.get_asset(channel)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await (_all(call) if stream else call)
    error = from_rpc_error(caught.value)
    assert type(error) is Internal
    assert "hunter2" not in str(caught.value)
    assert dict(caught.value.trailing_metadata() or ())["x-request-id"]
    assert "hunter2" in caplog.text


async def test_a_full_disk_is_unavailable_for_a_while(house: House, caplog: pytest.LogCaptureFixture) -> None:
    code = sqlite3.OperationalError("database or disk is full")
    code.sqlite_errorcode = sqlite3.SQLITE_FULL
    for failure in (OSError(errno.ENOSPC, "No space left", "/srv/secret"), OperationalError("INSERT", {}, code)):
        house.assets.failure = failure
        async with house.channel() as channel:
            error = await failing(house.get_asset(channel))
        assert isinstance(error, Unavailable)
        assert "disk of this service is full" in error.message
        assert error.retry_after == timedelta(seconds=30)
        assert "secret" not in error.message
    assert caplog.text.count("disk_full") == 2


async def _all(call: Any) -> list[Any]:
    return [message async for message in call]


async def test_an_error_in_mid_stream_keeps_its_class(house: House) -> None:
    house.assets.failure = NotFound("Gone.")
    async with house.channel() as channel:
        error = await failing(_all(house.watch(channel)))
    assert type(error) is NotFound
    assert house.assets.closed.is_set()


async def test_a_call_that_takes_too_long_is_ended(house: House) -> None:
    async with house.channel() as channel:
        error = await failing(house.get_asset(channel, "stuck"))
    assert error.reason == "deadline_exceeded"
    assert "0.3 s" in error.message


async def test_bytes_that_are_no_message_are_refused_after_the_identity(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    async def stream() -> AsyncIterator[bytes]:
        yield b"\xff\xff"

    asset, upload = "/atelier.asset.v1.AssetService", "/atelier.asset.v1.UploadService"
    for token, reason in (("x.y.z", ErrorReason.INVALID_IDENTITY), (None, ErrorReason.MALFORMED_REQUEST)):
        async with house.channel() if token is None else grpc.aio.insecure_channel(house.server.target) as channel:
            metadata = () if token is None else (("authorization", f"Bearer {token}"),)
            untyped: Any = channel
            calls: tuple[Any, ...] = (
                untyped.unary_unary(f"{asset}/GetAsset")(b"\xff\xff", metadata=metadata),
                untyped.unary_stream(f"{asset}/WatchAssets")(b"\xff\xff", metadata=metadata).read(),
                untyped.stream_unary(f"{upload}/CreateUpload")(stream(), metadata=metadata),
            )
            for call in calls:
                assert (await failing(call)).reason is reason
    assert not [record for record in caplog.records if record.exc_info]


async def test_an_upload_is_checked_message_by_message_and_may_not_pause(house: House) -> None:
    async def upload(*messages: upload_pb2.CreateUploadRequest) -> AsyncIterator[upload_pb2.CreateUploadRequest]:
        for message in messages:
            yield message

    async def stuck() -> AsyncIterator[upload_pb2.CreateUploadRequest]:
        yield upload_pb2.CreateUploadRequest(data=b"1")
        await house.assets.stuck.wait()

    one, bad = upload_pb2.CreateUploadRequest(data=b"12"), upload_pb2.CreateUploadRequest(filename="x" * 256)
    async with house.channel() as channel:
        stub = upload_grpc.UploadServiceStub(channel)
        assert (await stub.CreateUpload(upload(one, one))).asset.asset_id == "4"
        refused = await failing(stub.CreateUpload(upload(one, bad)))
        assert [problem.field for problem in refused.fields] == ["filename"]
        assert (await failing(stub.CreateUpload(stuck()))).message == "Nothing came for 0.3 s."


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
        error = await failing(_all(call))
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
        error = await failing(_all(call))
        await stopping
    assert isinstance(error, Unavailable)
    assert error.retry_after == timedelta(seconds=1)
    assert told == [False]
    assert "drain_fault" in caplog.text


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


async def test_a_token_that_was_refused_is_not_used_again(house: House) -> None:
    clock = ManualClock(house.clock.now())
    issued: list[IssuedToken] = []

    async def exchange() -> IssuedToken:
        kind = KeyKind.USER if issued else KeyKind.WORKER
        ttl = timedelta(minutes=5) if issued else timedelta(seconds=-1)
        issued.append(house.signer.issue(owner=ANN, kind=kind, key_id="k", ttl=ttl))
        return IssuedToken(issued[-1].token, clock.now() + timedelta(hours=1))

    async with channels.connect(house.server.target, tokens=TokenSource(exchange, clock)) as channel:
        assert (await failing(house.get_asset(channel))).reason == "expired_identity"
        await house.get_asset(channel)
    assert len(issued) == 2
