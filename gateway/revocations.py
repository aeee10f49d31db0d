"""Hears of keys that were revoked, for all keys with one short call: what was made from them is used no more."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

import grpc

from atelier.identity.v1 import identity_service_pb2, identity_service_pb2_grpc
from gateway.identity import Identities
from service_kit.errors import AtelierError, Unauthenticated
from service_kit.identity import IdentityVerifier
from service_kit.rpc_errors import from_rpc_error
from service_kit.tasks import end
from service_kit.telemetry import get_logger

log = get_logger(__name__)

PAUSE = timedelta(seconds=5)
"""How long a key may be of use after it was revoked, where the router can be reached."""


class Streams(Protocol):
    """Open streams."""

    async def recheck(self) -> None:
        """End those whose identity is refused by now."""


class Revocations:
    """Looks for revoked keys again and again. Without it tokens end after five minutes."""

    def __init__(
        self, router: grpc.aio.Channel, identities: Identities, streams: Sequence[Streams], limit: timedelta
    ) -> None:
        """Ask through `router`, a channel with the gateway's own identity; each call takes `limit` at most."""
        self._identity = identity_service_pb2_grpc.IdentityServiceStub(router)
        self._identities = identities
        self._streams = streams
        self._limit = limit
        self._known: frozenset[str] = frozenset()
        self._hears = True
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look from now on."""
        self._task = asyncio.create_task(self._run(), name="revocations")

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            await end([self._task])

    async def look(self) -> None:
        """Forget the tokens of keys that were revoked lately, and end the streams with them.

        Raises:
            grpc.RpcError, AtelierError: the router cannot be asked.
        """
        revoked = await self._revoked()
        # Also of those that are known: a token that was on its way while its key was revoked comes after that look.
        if self._identities.forget(revoked) or revoked - self._known:
            for streams in self._streams:
                await streams.recheck()
        self._known = revoked

    async def _revoked(self) -> frozenset[str]:
        found: set[str] = set()
        request = identity_service_pb2.ListRevokedKeysRequest()
        while True:
            answer = await self._identity.ListRevokedKeys(request, timeout=self._limit.total_seconds())
            found.update(answer.key_ids)
            # A page that names nothing is the last, whatever it says: nobody keeps this loop.
            if not answer.next_page_token or not answer.key_ids:
                return frozenset(found)
            request = identity_service_pb2.ListRevokedKeysRequest(page_token=answer.next_page_token)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(PAUSE.total_seconds())
            try:
                await self.look()
            except (grpc.RpcError, AtelierError) as error:
                if self._hears:
                    # Said once. Until it hears again a revoked key is of use for as long as its tokens are.
                    known = from_rpc_error(error) if isinstance(error, grpc.RpcError) else error
                    log.warning("revocations_unknown", error=known.message)
                self._hears = False
            else:
                self._hears = True


def keys_of(verifier: IdentityVerifier, token: str) -> tuple[str, ...]:
    """Return the ids of the keys that a token was made from; none of one that is not good."""
    try:
        caller = verifier.verify(token)
    except Unauthenticated:
        return ()
    return (caller.key_id, caller.session_of) if caller.session_of else (caller.key_id,)
