"""What is around every call, over real gRPC: identity, errors, limits of the contract, of size and of time."""

from __future__ import annotations

import errno
import logging
import sqlite3
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from sqlalchemy.exc import OperationalError

from atelier.asset.v1 import upload_service_pb2 as upload_pb2
from atelier.asset.v1 import upload_service_pb2_grpc as upload_grpc
from service_kit import channels
from service_kit.capabilities import LeaseClaims
from service_kit.clock import ManualClock
from service_kit.errors import (
    ErrorReason,
    Internal,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from service_kit.identity import (
    IssuedToken,
    KeyKind,
    Owner,
    TokenSource,
    on_behalf_of,
)
from service_kit.ids import new_id
from service_kit.interceptors import ServerCall, log_access
from service_kit.keyring import Keyrings
from service_kit.rpc_errors import from_rpc_error
from tests.service_kit.serving import ANN, BOB, House, all_of, failing


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
            await (all_of(call) if stream else call)
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


async def test_an_error_in_mid_stream_keeps_its_class(house: House) -> None:
    house.assets.failure = NotFound("Gone.")
    async with house.channel() as channel:
        error = await failing(all_of(house.watch(channel)))
    assert type(error) is NotFound
    assert house.assets.closed.is_set()


async def test_a_call_that_takes_too_long_is_ended(impatient: House) -> None:
    async with impatient.channel() as channel:
        error = await failing(impatient.get_asset(channel, "stuck"))
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


async def test_an_upload_is_checked_message_by_message(house: House) -> None:
    async def upload(*messages: upload_pb2.CreateUploadRequest) -> AsyncIterator[upload_pb2.CreateUploadRequest]:
        for message in messages:
            yield message

    one, bad = upload_pb2.CreateUploadRequest(data=b"12"), upload_pb2.CreateUploadRequest(filename="x" * 256)
    async with house.channel() as channel:
        stub = upload_grpc.UploadServiceStub(channel)
        assert (await stub.CreateUpload(upload(one, one))).asset.asset_id == "4"
        refused = await failing(stub.CreateUpload(upload(one, bad)))
        assert [problem.field for problem in refused.fields] == ["filename"]


async def test_an_upload_may_not_pause(impatient: House) -> None:
    async def stuck() -> AsyncIterator[upload_pb2.CreateUploadRequest]:
        yield upload_pb2.CreateUploadRequest(data=b"1")
        await impatient.assets.stuck.wait()

    async with impatient.channel() as channel:
        stub = upload_grpc.UploadServiceStub(channel)
        assert (await failing(stub.CreateUpload(stuck()))).message == "Nothing came for 0.3 s."


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


@pytest.mark.parametrize(
    ("method", "code", "level"),
    [
        ("/atelier.router.v1.WebhookService/LeaseDeliveries", "OK", logging.DEBUG),
        ("/atelier.identity.v1.IdentityService/ListRevokedKeys", "OK", logging.DEBUG),
        ("/atelier.router.v1.WebhookService/LeaseDeliveries", "UNAVAILABLE", logging.INFO),
        ("/atelier.router.v1.RouterService/GetJob", "OK", logging.INFO),
    ],
)
async def test_what_is_asked_every_second_is_not_in_the_log_of_a_system_that_idles(
    method: str, code: str, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None: ...

    context: Any = None
    call = ServerCall(method, context, streams_out=False, unary=True, metadata={}, code=code)
    with caplog.at_level(logging.DEBUG):
        await log_access(call, work)
    assert [record.levelno for record in caplog.records if record.message.startswith("rpc_served")] == [level]
