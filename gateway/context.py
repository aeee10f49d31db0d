"""What the handlers share: the services, identities, limits, and the moment at which the gateway closes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import timedelta

from google.protobuf.message import Message

from gateway.backends import Backends, Metadata, metadata
from gateway.closing import Closing
from gateway.feeds import Feeds
from gateway.http import Exchange
from gateway.http_rules import RpcRoute
from gateway.identity import Credential, Identities, credential_of, on_behalf_of
from gateway.news import Watched
from gateway.open_streams import OpenStreams
from gateway.rates import RateLimits
from gateway.references import References
from gateway.sse import PING_INTERVAL
from gateway.streams import AFTER, Access
from service_kit.clock import Clock


@dataclass(slots=True)
class Context:
    """Everything a handler needs and does not own."""

    backends: Backends
    identities: Identities
    clock: Clock
    request_timeout: timedelta
    max_body_bytes: int
    secure_cookies: bool
    rates: RateLimits
    references: References
    streams: OpenStreams
    feeds: Feeds
    ping_interval: timedelta = PING_INTERVAL
    closing: Closing = field(default_factory=Closing)

    def access(self, exchange: Exchange) -> Access:
        """Return what makes the metadata of calls for a request: with a token that is good, whenever it is asked."""
        credential = credential_of(exchange.headers, exchange.method, exchange.schemes)
        return self.access_of(exchange, credential, on_behalf_of(exchange.headers))

    def watched(self, exchange: Exchange, route: RpcRoute, request: Message) -> Watched:
        """Return what a request watches, and as whom: with the same key, on behalf of the same owner."""
        credential = credential_of(exchange.headers, exchange.method, exchange.schemes)
        acting_for, request_id = on_behalf_of(exchange.headers), exchange.request_id
        request.ClearField(AFTER)
        said = "" if credential is None else credential.text.reveal()
        identity = hashlib.sha256(f"{said}\n{acting_for or ''}".encode()).digest()

        async def access() -> Metadata:
            return metadata(request_id, await self.identities.token(credential), acting_for)

        return Watched(route.grpc_path, request.SerializeToString(deterministic=True), identity, route, access)

    def access_of(self, exchange: Exchange, credential: Credential | None, acting_for: str | None) -> Access:
        """Return the same for a credential that the request does not carry, on behalf of an owner."""

        async def make() -> Metadata:
            token = await self.identities.token(credential)
            if not exchange.counted:
                # Once, however many calls are made for the request, and however often a stream asks again.
                exchange.counted = True
                self.rates.count(token, acting_for)
            return metadata(exchange.request_id, token, acting_for)

        return make
