"""Channels to other services: keepalive, limits, deadlines, our own identity and the request's id on every call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, timedelta
from types import MappingProxyType
from typing import Any

import grpc

from atelier.identity.v1 import identity_service_pb2, identity_service_pb2_grpc
from atelier.type.v1 import access_pb2
from service_kit.access import access_of
from service_kit.clock import Clock, SystemClock
from service_kit.completed_calls import CompletingChannel
from service_kit.errors import Unavailable
from service_kit.identity import AUTHORIZATION, IssuedToken, TokenSource
from service_kit.in_process.channel import InProcessChannel
from service_kit.in_process.rpc import MAX_MESSAGE_BYTES
from service_kit.in_process.server import InProcessServer
from service_kit.interceptors import REQUEST_ID, current_request_id
from service_kit.secret import Secret

_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # A service that was restarted is found again within a second, not after gRPC's usual growing pauses.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Not a pause, whatever its name: so long an attempt to connect may take, over a slow network or on a busy machine.
    ("grpc.min_reconnect_backoff_ms", 5_000),
]
Near = Mapping[str, InProcessServer]
"""The servers of this process that are called without gRPC, by the host:port that they have for others."""
NOBODY_NEAR: Near = MappingProxyType({})
_WITHOUT_IDENTITY = frozenset({access_pb2.ACCESS_OPEN, access_pb2.ACCESS_LEASE})


def connect(
    target: str,
    *,
    tokens: TokenSource | None = None,
    timeout: timedelta = timedelta(seconds=30),
    near: Near = NOBODY_NEAR,
) -> grpc.aio.Channel:
    """Return a channel to host:port. Nothing is connected yet; close it at the end.

    Args:
        target: host:port of a service.
        near: servers of this process; what they are has no connection.
        tokens: our own identity; added to calls that need one and do not bring `authorization` themselves.
        timeout: the deadline of unary calls that have none.
    """
    outgoing = _Outgoing(tokens, timeout.total_seconds())
    return CompletingChannel(connect_bare(target, near=near), outgoing)


def connect_bare(target: str, *, near: Near = NOBODY_NEAR) -> grpc.aio.Channel:
    """Return a channel to host:port for who gives each call its request id, identity and deadline.

    As `connect`, without what would complete them.
    """
    if (server := near.get(target)) is not None:
        return InProcessChannel(server)
    return grpc.aio.insecure_channel(target, options=_OPTIONS)


async def wait_ready(channel: grpc.aio.Channel, limit: timedelta) -> None:
    """Wait until a channel is connected.

    Raises:
        Unavailable: it was not in time.
    """
    try:
        async with asyncio.timeout(limit.total_seconds()):
            await channel.channel_ready()
    except TimeoutError:
        raise Unavailable(f"The service did not answer within {limit.total_seconds():g} s.") from None


def key_tokens(router: grpc.aio.Channel, key: Secret | Callable[[], Secret], clock: Clock | None = None) -> TokenSource:
    """Return our own identity: an API key, or what reads it, exchanged when a token is needed."""
    stub = identity_service_pb2_grpc.IdentityServiceStub(router)

    async def exchange() -> IssuedToken:
        secret = key if isinstance(key, Secret) else key()
        reply = await stub.ExchangeKey(identity_service_pb2.ExchangeKeyRequest(secret=secret.reveal()))
        return IssuedToken(Secret(reply.identity_token), reply.expires_at.ToDatetime(UTC))

    return TokenSource(exchange, clock or SystemClock())


class _Outgoing:
    """Completes calls that are about to be made."""

    def __init__(self, tokens: TokenSource | None, timeout_s: float) -> None:
        self.tokens = tokens
        self.timeout_s = timeout_s

    def note(self, metadata: Any) -> grpc.aio.Metadata:
        """Return the metadata with the id of the request that is served, unless they have one."""
        noted = grpc.aio.Metadata(*(metadata or ()))
        if noted.get(REQUEST_ID) is None and current_request_id():
            noted.add(REQUEST_ID, current_request_id())
        return noted

    async def identify(self, method: str | bytes, metadata: grpc.aio.Metadata) -> None:
        """Add our identity to the metadata of a call, where it needs one and has none."""
        if self.tokens is not None and metadata.get(AUTHORIZATION) is None and _needs_identity(method):
            metadata.add(AUTHORIZATION, f"Bearer {await self.tokens.get()}")

    def learn(self, code: grpc.StatusCode) -> None:
        """Forget a token that was refused, so that the next call brings a new one."""
        if self.tokens is not None and code is grpc.StatusCode.UNAUTHENTICATED:
            self.tokens.forget()


def _needs_identity(method: str | bytes) -> bool:
    text = method.decode() if isinstance(method, bytes) else method
    return access_of(text) not in _WITHOUT_IDENTITY
