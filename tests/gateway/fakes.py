"""Stand-ins for the services behind the gateway: real gRPC servers and interceptors; a test chooses the answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import grpc
from google.protobuf.message import Message

from atelier.asset.v1 import asset_service_pb2_grpc, upload_service_pb2_grpc
from atelier.identity.v1 import identity_service_pb2, identity_service_pb2_grpc
from atelier.library.v1 import library_service_pb2_grpc
from atelier.router.v1 import router_service_pb2_grpc, webhook_service_pb2_grpc
from faults.ports import free_port
from gateway.http_rules import RpcRoute, routes
from gateway.requests import message_class
from service_kit.clock import Clock
from service_kit.errors import Unauthenticated
from service_kit.health import HealthBoard
from service_kit.identity import IdentitySigner, KeyKind, Owner
from service_kit.keyring import Keyrings
from service_kit.server import GrpcServer
from service_kit.settings import Settings

KEYS = {
    "atl_ann": (KeyKind.USER, "ann"),
    "atl_bob": (KeyKind.USER, "bob"),
    "atl_admin": (KeyKind.ADMIN, "root"),
    "atl_worker": (KeyKind.WORKER, "w"),
    "atl_internal": (KeyKind.INTERNAL, "shop"),
}
ANN = {"authorization": "Bearer atl_ann"}
ADMIN = {"authorization": "Bearer atl_admin"}

Unary = Callable[[Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Message]]
Stream = Callable[[Any, grpc.aio.ServicerContext[Any, Any]], AsyncIterator[Message]]


@dataclass
class Seen:
    """One call that a stand-in got."""

    request: Any
    metadata: dict[str, str]


@dataclass
class Behaviour:
    """What the stand-ins do: by RPC name, such as `GetJob`. What is not set answers with an empty message."""

    unary: dict[str, Unary] = field(default_factory=dict)
    streams: dict[str, Stream] = field(default_factory=dict)
    uploads: dict[str, Callable[[AsyncIterator[Any], Any], Awaitable[Message]]] = field(default_factory=dict)
    seen: dict[str, list[Seen]] = field(default_factory=dict)
    exchanges: int = 0
    token_ttl: timedelta = timedelta(minutes=5)

    def reset(self) -> None:
        """Forget everything but how keys are exchanged."""
        self.unary = {"ExchangeKey": self.unary["ExchangeKey"]}
        self.streams, self.uploads, self.seen = {}, {}, {}

    def last(self, rpc: str) -> Seen:
        return self.seen[rpc][-1]


def _metadata(context: Any) -> dict[str, str]:
    return dict(context.invocation_metadata() or ())


def _servicer(base: type, behaviour: Behaviour, rpcs: dict[str, RpcRoute]) -> Any:
    """Return a servicer of a generated base class whose RPCs do what the behaviour says."""

    def make(name: str, route: RpcRoute) -> Any:
        reply = message_class(route.method.output_type)

        def note(request: Any, context: Any) -> None:
            behaviour.seen.setdefault(name, []).append(Seen(request, _metadata(context)))

        async def unary(self: Any, request: Any, context: Any) -> Message:
            note(request, context)
            chosen = behaviour.unary.get(name)
            return await chosen(request, context) if chosen else reply()

        async def stream(self: Any, request: Any, context: Any) -> AsyncIterator[Message]:
            note(request, context)
            chosen = behaviour.streams.get(name)
            if chosen is None:
                await context.send_initial_metadata((("atelier-stream", "open"),))
                await asyncio.Event().wait()
            else:
                async for message in chosen(request, context):
                    yield message

        async def upload(self: Any, request: Any, context: Any) -> Message:
            note(None, context)
            return await behaviour.uploads[name](request, context)

        if route.method.client_streaming:
            return upload
        return stream if route.method.server_streaming else unary

    return type("Fake", (base,), {name: make(name, route) for name, route in rpcs.items()})()


def _exchange(behaviour: Behaviour, signer: IdentitySigner) -> None:
    """Let the keys of this file be exchanged for tokens."""

    async def exchange(request: Any, context: Any) -> Message:
        behaviour.exchanges += 1
        if request.secret not in KEYS:
            raise Unauthenticated("The key is not valid.")
        kind, owner = KEYS[request.secret]
        issued = signer.issue(owner=Owner("default", owner), kind=kind, key_id="k1", ttl=behaviour.token_ttl)
        reply = identity_service_pb2.ExchangeKeyResponse(identity_token=issued.token.reveal())
        reply.expires_at.FromDatetime(issued.expires_at)
        return reply

    behaviour.unary["ExchangeKey"] = exchange


class Services:
    """The three stand-ins, each at a port of its own."""

    def __init__(self, settings: Settings, clock: Clock, behaviour: Behaviour) -> None:
        rings = Keyrings(settings.keys_dir)
        self.behaviour = behaviour
        self.signer = rings.identity_signer(clock)
        self._verifier = rings.identity_verifier(clock)
        self._clock = clock
        self.healths: dict[str, HealthBoard] = {}
        _exchange(behaviour, self.signer)
        # Not ports that the system may give away while one of them is not there.
        names = ("router", "asset", "library")
        self.servers = {name: self.make(name, f"127.0.0.1:{free_port()}") for name in names}

    def make(self, name: str, listen: str) -> GrpcServer:
        """Return a server of one of them, for instance to bring it back at the port it had."""
        self.healths.pop(name, None)
        return GrpcServer(
            name,
            listen=listen,
            servicers=_registrations(name, self.behaviour),
            verifier=self._verifier,
            health=self.healths.setdefault(name, HealthBoard()),
            grace=timedelta(seconds=0.05),
            clock=self._clock,
        )

    async def start(self) -> dict[str, str]:
        """Start all. Returns the settings with which the gateway finds them."""
        for server in self.servers.values():
            await server.start()
        return {f"gateway__{name}_target": server.target for name, server in self.servers.items()}

    async def stop(self) -> None:
        await asyncio.gather(*(server.stop() for server in self.servers.values()))


_BASES: dict[str, list[tuple[str, Any, type]]] = {
    "router": [
        (
            "RouterService",
            router_service_pb2_grpc.add_RouterServiceServicer_to_server,
            router_service_pb2_grpc.RouterServiceServicer,
        ),
        (
            "WebhookService",
            webhook_service_pb2_grpc.add_WebhookServiceServicer_to_server,
            webhook_service_pb2_grpc.WebhookServiceServicer,
        ),
        (
            "IdentityService",
            identity_service_pb2_grpc.add_IdentityServiceServicer_to_server,
            identity_service_pb2_grpc.IdentityServiceServicer,
        ),
    ],
    "asset": [
        (
            "AssetService",
            asset_service_pb2_grpc.add_AssetServiceServicer_to_server,
            asset_service_pb2_grpc.AssetServiceServicer,
        ),
        (
            "UploadService",
            upload_service_pb2_grpc.add_UploadServiceServicer_to_server,
            upload_service_pb2_grpc.UploadServiceServicer,
        ),
    ],
    "library": [
        (
            "LibraryService",
            library_service_pb2_grpc.add_LibraryServiceServicer_to_server,
            library_service_pb2_grpc.LibraryServiceServicer,
        ),
    ],
}


def _registrations(name: str, behaviour: Behaviour) -> list[Any]:
    found = []
    for service, add, base in _BASES[name]:
        rpcs = {route.method.name: route for route in routes() if route.service.endswith(f".{service}")}
        found.append((add, _servicer(base, behaviour, rpcs)))
    return found
