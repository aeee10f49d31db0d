"""The library's calls to the asset service."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from atelier.asset.v1 import asset_control_service_pb2 as pb
from atelier.asset.v1 import asset_control_service_pb2_grpc, asset_service_pb2, asset_service_pb2_grpc
from library_service import wire
from library_service.domain import HeldAsset, Item, Mark
from service_kit import channels
from service_kit.clock import Clock
from service_kit.errors import AtelierError, FailedPrecondition, Unavailable
from service_kit.health import HealthBoard, follow
from service_kit.identity import Owner, on_behalf_of
from service_kit.rpc_errors import translated
from service_kit.secret import Secret
from service_kit.telemetry import get_logger

_CALL_LIMIT_S = 10.0
_COPY_LIMIT_S = 25.0

log = get_logger(__name__)


class AssetControl:
    """The asset service, as the library needs it. Every method raises `AtelierError` when the call fails."""

    def __init__(
        self,
        target: str,
        *,
        identity_target: str,
        key: Callable[[], Secret],
        clock: Clock,
        near: channels.Near = channels.NOBODY_NEAR,
    ) -> None:
        """Call host:port with the library's own identity. Nothing is connected yet.

        Args:
            target: the asset service.
            identity_target: the router, where the key is exchanged.
            key: reads the library's API key, when a token is needed.
            clock: decides when a token is too old.
            near: servers of this process, which are called without gRPC.
        """
        self._router = channels.connect(identity_target, near=near)
        tokens = channels.key_tokens(self._router, lambda: _read(key), clock)
        self._channel = channels.connect(target, tokens=tokens, near=near)
        self._stub = asset_control_service_pb2_grpc.AssetControlServiceStub(self._channel)
        self._workspace = asset_service_pb2_grpc.AssetServiceStub(self._channel)

    async def close(self) -> None:
        """Close the connections."""
        await self._channel.close()
        await self._router.close()

    async def take_hold(
        self, holder: str, owner: Owner, asset_ids: Sequence[str], ttl: timedelta, *, discarded_too: bool = False
    ) -> dict[str, HeldAsset]:
        """Have the bytes of assets stay for `ttl`. Returns those that the owner can see, by id.

        With `discarded_too` also those that the owner discarded since this holder took them.
        """
        response = await self._take_hold(holder, owner, asset_ids, ttl)
        held = [wire.held_asset(message, discarded_too=discarded_too) for message in response.held]
        return {one.asset_id: one for one in held if one is not None}

    async def renew_hold(self, holder: str, owner: Owner, asset_ids: Sequence[str], ttl: timedelta) -> None:
        """Have the bytes of assets that are held stay longer, also when their owner has discarded them meanwhile."""
        await self._take_hold(holder, owner, asset_ids, ttl)

    async def release_hold(self, holder: str) -> None:
        """End a hold; harmless when there is none."""
        with translated():
            await self._stub.ReleaseHold(pb.ReleaseHoldRequest(holder=holder), timeout=_CALL_LIMIT_S)

    async def mark_saved(self, marks: Sequence[Mark]) -> None:
        """Tell as which items assets are saved; empty for none."""
        request = pb.MarkManySavedRequest(marks=[wire.mark_to_proto(mark) for mark in marks])
        with translated():
            await self._stub.MarkManySaved(request, timeout=_CALL_LIMIT_S)

    async def list_assets(
        self, owner: Owner, *, job_id: str = "", page_size: int, page_token: str = ""
    ) -> tuple[list[str], str]:
        """Return the ids of a page of what an owner sees in the workspace, and the token of the next page.

        Raises:
            InvalidArgument: the token is not one of the workspace's.
        """
        request = asset_service_pb2.ListAssetsRequest(job_id=job_id, page_size=page_size, page_token=page_token)
        with translated():
            reply = await self._workspace.ListAssets(request, metadata=on_behalf_of(owner), timeout=_CALL_LIMIT_S)
        return [asset.asset_id for asset in reply.assets], reply.next_page_token

    async def discard(self, owner: Owner, asset_ids: Sequence[str]) -> dict[str, AtelierError]:
        """Remove assets from a workspace. Returns why, for those that are still there."""
        request = asset_service_pb2.DiscardAssetsRequest(asset_ids=asset_ids)
        with translated():
            reply = await self._workspace.DiscardAssets(request, metadata=on_behalf_of(owner), timeout=_CALL_LIMIT_S)
        return wire.not_discarded(reply)

    async def copy_item(self, item: Item) -> bytes:
        """Have an item copied into the workspace. Returns the asset, as a client is told of it; opaque.

        Raises:
            NotFound: the item's bytes are gone.
        """
        with translated():
            reply = await self._stub.CopyItem(wire.item_to_copy(item), timeout=_COPY_LIMIT_S)
        return reply.asset.SerializeToString()

    async def follow_health(self, board: HealthBoard) -> None:
        """Keep what a board says about the asset service true, for ever. Items can be read without it."""
        await follow(self._channel, board, "asset_service")

    async def _take_hold(
        self, holder: str, owner: Owner, asset_ids: Sequence[str], ttl: timedelta
    ) -> pb.TakeHoldResponse:
        request = pb.TakeHoldRequest(
            holder=holder, owner=wire.owner_to_proto(owner), asset_ids=asset_ids, skip_missing=True
        )
        request.ttl.CopyFrom(_duration(ttl))
        with translated():
            return await self._stub.TakeHold(request, timeout=_CALL_LIMIT_S)


def _read(key: Callable[[], Secret]) -> Secret:
    """Return our key. That there is none yet passes, and is no business of the client."""
    try:
        return key()
    except FailedPrecondition as error:
        log.error("key_missing", error=error.message)
        raise Unavailable from error


def _duration(value: timedelta) -> Duration:
    duration = Duration()
    duration.FromTimedelta(value)
    return duration
