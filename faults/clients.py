"""Owners as clients: channels through the proxies, and calls that are repeated until somebody answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import TypeVar

import grpc

from atelier.asset.v1 import asset_pb2, asset_service_pb2, asset_service_pb2_grpc
from atelier.identity.v1 import identity_service_pb2, identity_service_pb2_grpc
from atelier.library.v1 import library_service_pb2_grpc
from atelier.router.v1 import router_service_pb2_grpc
from faults.cluster import Cluster
from faults.schedule import ASSET_SERVICES, LIBRARIES, OWNERS, ROUTERS
from service_kit.channels import connect, key_tokens, wait_ready
from service_kit.errors import AtelierError
from service_kit.keyring import Keyrings
from service_kit.secret import Secret

READY = timedelta(seconds=60)
CALL_LIMIT_S = 4.0
_PAUSE_S = 0.1
# What a client may be told while something is broken. It repeats then.
_PASSING = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
_T = TypeVar("_T")


class Owner:
    """One owner, signed in: a stub for each router, each asset service and each library."""

    def __init__(self, name: str, cluster: Cluster, key: Secret) -> None:
        """Open the channels; `close` closes them."""
        self.name = name
        self._channels: list[grpc.aio.Channel] = []
        self.routers = [
            router_service_pb2_grpc.RouterServiceStub(self._open(f"client-{number}", cluster, key))
            for number in range(ROUTERS)
        ]
        self.assets = [
            asset_service_pb2_grpc.AssetServiceStub(self._open(f"media-{number}", cluster, key))
            for number in range(ASSET_SERVICES)
        ]
        self.libraries = [
            library_service_pb2_grpc.LibraryServiceStub(self._open(f"shelf-{number}", cluster, key))
            for number in range(LIBRARIES)
        ]

    def _open(self, link: str, cluster: Cluster, key: Secret) -> grpc.aio.Channel:
        # A key is exchanged at a router, also for the calls to an asset service.
        identity = connect(cluster.links[f"client-{len(self._channels) // 2 % ROUTERS}"].target)
        channel = connect(cluster.links[link].target, tokens=key_tokens(identity, key))
        self._channels += [identity, channel]
        return channel

    async def close(self) -> None:
        """Close the channels."""
        await asyncio.gather(*(channel.close() for channel in self._channels))


class Calls:
    """Calls through whatever dies: tried at one replica after the other. Odd answers are noted."""

    def __init__(self, oddities: list[str]) -> None:
        """Note odd answers in a list."""
        self._oddities = oddities

    async def until_answered(
        self,
        what: str,
        calls: Sequence[Callable[[], Awaitable[_T]]],
        *,
        refusals: frozenset[grpc.StatusCode] = frozenset(),
    ) -> _T | None:
        """Return the first answer, or None when it was one of `refusals`.

        It goes on for ever: the caller has a deadline.
        """
        tries = 0
        while True:
            try:
                async with asyncio.timeout(CALL_LIMIT_S):
                    return await calls[tries % len(calls)]()
            except grpc.aio.AioRpcError as error:
                if error.code() in refusals:
                    return None
                self.note(what, error)
            except (AtelierError, TimeoutError) as error:
                self.note(what, error)
            tries += 1
            await asyncio.sleep(_PAUSE_S)

    def note(self, what: str, error: Exception) -> None:
        """Note an answer that is none of those that a client is told to repeat at."""
        if isinstance(error, grpc.aio.AioRpcError) and error.code() not in _PASSING:
            self._oddities.append(f"{what} was answered {error.code().name}: {error.details()}")


async def sign_in(cluster: Cluster) -> list[Owner]:
    """Wait for the routers, make a key for each owner and return the owners."""
    channel = connect(cluster.links["client-0"].target)
    try:
        await wait_ready(channel, READY)
        rings = Keyrings(cluster.data / "keys")
        tokens = key_tokens(channel, lambda: rings.read_key_file("admin.key"))
        admin = connect(cluster.links["client-0"].target, tokens=tokens)
        try:
            stub = identity_service_pb2_grpc.IdentityServiceStub(admin)
            replies = [
                await stub.CreateKey(
                    identity_service_pb2.CreateKeyRequest(
                        owner_id=owner, kind=identity_service_pb2.KEY_KIND_USER, name=f"faults {owner}"
                    )
                )
                for owner in OWNERS
            ]
        finally:
            await admin.close()
    finally:
        await channel.close()
    return [Owner(name, cluster, Secret(reply.secret)) for name, reply in zip(OWNERS, replies, strict=True)]


async def list_assets(calls: Calls, owner: Owner, first: int, *, job_id: str = "") -> list[asset_pb2.Asset]:
    """Return all assets that an owner sees, of one job or all, asking asset service `first` first."""
    found: list[asset_pb2.Asset] = []
    request = asset_service_pb2.ListAssetsRequest(job_id=job_id, page_size=200)
    ways = [partial(stub.ListAssets, request) for stub in turned(owner.assets, first)]
    while True:
        reply = await calls.until_answered("ListAssets", ways)
        found += reply.assets if reply else []
        if reply is None or not reply.next_page_token:
            return found
        request.page_token = reply.next_page_token


def turned(items: list[_T], first: int) -> list[_T]:
    """Return the items from one on, and then those before it."""
    first %= len(items)
    return [*items[first:], *items[:first]]
