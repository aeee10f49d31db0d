"""How the service starts, ends, and says how it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc

from asset_service.__main__ import start
from service_kit import channels
from service_kit.errors import FailedPrecondition, Unauthenticated
from service_kit.settings import for_tests
from tests.asset_service.harness import Harness, refusal

SERVICES = ("AssetService", "UploadService", "AssetControlService")


def methods() -> list[MethodDescriptor]:
    pool = descriptor_pool.Default()
    return [method for name in SERVICES for method in pool.FindServiceByName(f"atelier.asset.v1.{name}").methods]


async def test_every_rpc_needs_an_identity_or_a_lease(harness: Harness) -> None:
    async with grpc.aio.insecure_channel(harness.service.server.target) as channel:
        for method in methods():
            error = await refusal(call_without_identity(channel, method))
            assert isinstance(error, Unauthenticated), method.full_name


def call_without_identity(channel: grpc.aio.Channel, method: MethodDescriptor) -> Any:
    """Call an RPC with an empty request. Returns what is to be awaited."""
    request = message_factory.GetMessageClass(method.input_type)()

    async def one() -> AsyncIterator[Any]:
        yield request

    sent = "stream" if method.client_streaming else "unary"
    answered = "stream" if method.server_streaming else "unary"
    call = getattr(channel, f"{sent}_{answered}")(
        f"/{method.containing_service.full_name}/{method.name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )(one() if method.client_streaming else request)
    return call.read() if method.server_streaming else call


async def test_it_says_how_it_is_and_what_it_depends_on(tmp_path: Path) -> None:
    running = await start(for_tests(tmp_path))
    names = ["", "dependency/database", "dependency/blob_store", *(f"atelier.asset.v1.{name}" for name in SERVICES)]
    async with channels.connect(running.target) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        for name in names:
            reply = await stub.Check(health_pb2.HealthCheckRequest(service=name))
            assert reply.status == health_pb2.HealthCheckResponse.SERVING, name
    assert running.name == "asset"
    await running.stop()


async def test_it_does_not_serve_while_its_store_does_not_answer(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(harness.service.store, "stat", broken)
    await harness.service.vitals.look()
    assert not harness.service.health.serving
    assert harness.service.health.dependencies["database"].serving
    monkeypatch.undo()
    await harness.service.vitals.look()
    assert harness.service.health.serving


async def test_it_can_start_again_on_its_folder_once_it_has_stopped(tmp_path: Path) -> None:
    settings = for_tests(tmp_path)
    first = await start(settings)
    with pytest.raises(FailedPrecondition):
        await start(settings)
    await first.stop()
    second = await start(settings)
    await second.stop()
