"""What the library takes from a held asset."""

from __future__ import annotations

import pytest

from atelier.asset.v1 import asset_control_service_pb2, asset_pb2
from atelier.type.v1 import generation_pb2
from library_service import wire


@pytest.mark.parametrize("state", [asset_pb2.ASSET_STATE_WITHHELD, asset_pb2.ASSET_STATE_REMOVED])
def test_what_its_owner_cannot_see_is_not_taken(state: asset_pb2.AssetState.ValueType) -> None:
    asset = asset_pb2.Asset(asset_id="a", state=state, format=generation_pb2.FORMAT_IMAGE)

    assert wire.held_asset(asset_control_service_pb2.HeldAsset(asset=asset)) is None


def test_a_rendition_without_its_bytes_is_a_fault_not_a_loss() -> None:
    asset = asset_pb2.Asset(state=asset_pb2.ASSET_STATE_AVAILABLE, format=generation_pb2.FORMAT_IMAGE)
    asset.renditions.add()

    with pytest.raises(ValueError, match="zip"):
        wire.held_asset(asset_control_service_pb2.HeldAsset(asset=asset))
