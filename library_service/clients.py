"""The library's calls to the asset service."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from google.protobuf.duration_pb2 import Duration

from atelier.asset.v1 import asset_control_service_pb2 as pb
from atelier.asset.v1 import asset_control_service_pb2_grpc
from library_service import wire
from library_service.domain import HeldAsset
from service_kit import channels
from service_kit.clock import Clock
from service_kit.errors import FailedPrecondition, NotFound, Unavailable
from service_kit.health import HealthBoard, follow
from service_kit.identity import Owner
from service_kit.rpc_errors import translated
from service_kit.secret import Secret
from service_kit.telemetry import get_logger

_CALL_LIMIT_S = 10.0

log = get_logger(__name__)


class AssetControl:
    """The asset service, as the library needs it. Every method raises `AtelierError` when the call fails."""

    def __init__(self, target: str, *, identity_target: str, key: Callable[[], Secret], clock: Clock) -> None:
        """Call host:port with the library's own identity. Nothing is connected yet.

        Args:
            target: the asset service.
            identity_target: the router, where the key is exchanged.
            key: reads the library's API key, when a token is needed.
            clock: decides when a token is too old.
        """
        self._router = channels.connect(identity_target)
        tokens = channels.key_tokens(self._router, lambda: _read(key), clock)
        self._channel = channels.connect(target, tokens=tokens)
        self._stub = asset_control_service_pb2_grpc.AssetControlServiceStub(self._channel)

    async def close(self) -> None:
        """Close the connections."""
        await self._channel.close()
        await self._router.close()

    async def take_hold(self, holder: str, owner: Owner, asset_id: str, ttl: timedelta) -> HeldAsset:
        """Have an asset's bytes stay for `ttl`.

        Raises:
            NotFound: there is no such asset that the owner can see.
        """
        response = await self._take_hold(holder, owner, asset_id, ttl)
        held = wire.held_asset(response.held[0]) if response.held else None
        if held is None:
            raise NotFound.of("asset", asset_id)
        return held

    async def renew_hold(self, holder: str, owner: Owner, asset_id: str, ttl: timedelta) -> None:
        """Have the bytes of an asset that is held stay longer, also when its owner has discarded it meanwhile."""
        await self._take_hold(holder, owner, asset_id, ttl)

    async def release_hold(self, holder: str) -> None:
        """End a hold; harmless when there is none."""
        with translated():
            await self._stub.ReleaseHold(pb.ReleaseHoldRequest(holder=holder), timeout=_CALL_LIMIT_S)

    async def mark_saved(self, owner: Owner, *, asset_id: str, item_id: str, version: int) -> None:
        """Tell as which item an asset is saved; empty for none."""
        request = pb.MarkSavedRequest(
            asset_id=asset_id, owner=wire.owner_to_proto(owner), item_id=item_id, version=version
        )
        with translated():
            await self._stub.MarkSaved(request, timeout=_CALL_LIMIT_S)

    async def follow_health(self, board: HealthBoard) -> None:
        """Keep what a board says about the asset service true, for ever. Items can be read without it."""
        await follow(self._channel, board, "asset_service")

    async def _take_hold(self, holder: str, owner: Owner, asset_id: str, ttl: timedelta) -> pb.TakeHoldResponse:
        request = pb.TakeHoldRequest(holder=holder, owner=wire.owner_to_proto(owner), asset_ids=[asset_id])
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
