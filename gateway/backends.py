"""The services behind the gateway: which channel serves which RPC; calls carry identity, request id and deadline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, timedelta
from typing import Any

import grpc
from google.protobuf.message import Message

from atelier.identity.v1 import identity_service_pb2, identity_service_pb2_grpc
from gateway.http_rules import RpcRoute
from gateway.requests import message_class
from gateway.status import of_rpc
from service_kit.identity import AUTHORIZATION, ON_BEHALF_OF, IssuedToken
from service_kit.interceptors import REQUEST_ID, current_request_id
from service_kit.secret import Secret

Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Backend:
    """One service process: how it is called in answers and reached, and what it serves."""

    name: str
    channel: grpc.aio.Channel
    required: bool
    """Whether the gateway is of no use without it."""


def metadata(request_id: str, token: str | None = None, acting_for: str | None = None) -> Metadata:
    """Return the metadata of a call for a client."""
    entries = [(REQUEST_ID, request_id)]
    if token is not None:
        entries.append((AUTHORIZATION, f"Bearer {token}"))
    if acting_for is not None:
        entries.append((ON_BEHALF_OF, acting_for))
    return tuple(entries)


class Backends:
    """Calls RPCs by their routes."""

    def __init__(self, router: Backend, asset: Backend, library: Backend) -> None:
        """Serve router and identity by the router, the workspace and the library each by its own service."""
        self.all: Sequence[Backend] = (router, asset, library)
        self._by_area: Mapping[str, Backend] = {
            "atelier.router.v1": router,
            "atelier.identity.v1": router,
            "atelier.asset.v1": asset,
            "atelier.library.v1": library,
        }
        self._identity = identity_service_pb2_grpc.IdentityServiceStub(router.channel)
        self._calls: dict[str, Any] = {}

    def channel(self, name: str) -> grpc.aio.Channel:
        """Return the channel to one service: `router`, `asset` or `library`."""
        return next(backend.channel for backend in self.all if backend.name == name)

    async def exchange_key(self, key: Secret, limit: timedelta) -> IssuedToken:
        """Return an identity token for an API key.

        Raises:
            Unauthenticated: the key is wrong, revoked or expired.
            Unavailable: the router cannot be reached.
        """
        request = identity_service_pb2.ExchangeKeyRequest(secret=key.reveal())
        try:
            entries = metadata(current_request_id())
            reply = await self._identity.ExchangeKey(request, metadata=entries, timeout=limit.total_seconds())
        except grpc.RpcError as error:
            raise of_rpc(error) from error
        return IssuedToken(Secret(reply.identity_token), reply.expires_at.ToDatetime(UTC))

    async def key_works(self, key_id: str, entries: Metadata, limit: timedelta) -> bool:
        """Tell whether a key works now; `entries` carry the gateway's own identity.

        Raises:
            AtelierError: the router cannot be reached.
        """
        request = identity_service_pb2.CheckKeyRequest(key_id=key_id)
        try:
            answer = await self._identity.CheckKey(request, metadata=entries, timeout=limit.total_seconds())
        except grpc.RpcError as error:
            raise of_rpc(error) from error
        return bool(answer.works)

    async def unary(self, route: RpcRoute, request: Message, entries: Metadata, limit: timedelta) -> Message:
        """Call a unary RPC. Raises grpc.RpcError."""
        reply: Message = await self._callable(route)(request, metadata=entries, timeout=limit.total_seconds())
        return reply

    def stream(self, route: RpcRoute, request: Message, entries: Metadata) -> Any:
        """Begin a server-streaming RPC. The service ends it when the token expires; the caller cancels it."""
        return self._callable(route)(request, metadata=entries)

    def upload(self, route: RpcRoute, entries: Metadata, limit: timedelta) -> Any:
        """Begin a client-streaming RPC; the caller writes, and cancels it in the end."""
        return self._callable(route)(metadata=entries, timeout=limit.total_seconds())

    async def close(self) -> None:
        """Close all channels; calls under way are cancelled."""
        for backend in self.all:
            await backend.channel.close()

    def _callable(self, route: RpcRoute) -> Any:
        found = self._calls.get(route.grpc_path)
        if found is None:
            found = self._calls[route.grpc_path] = self._make(route)
        return found

    def _make(self, route: RpcRoute) -> Any:
        channel = self._by_area[route.method.containing_service.file.package].channel
        streams = route.method.client_streaming, route.method.server_streaming
        make = {
            (False, False): channel.unary_unary,
            (False, True): channel.unary_stream,
            (True, False): channel.stream_unary,
            (True, True): channel.stream_stream,
        }[streams]
        return make(
            route.grpc_path,
            request_serializer=message_class(route.method.input_type).SerializeToString,
            response_deserializer=message_class(route.method.output_type).FromString,
        )
