"""What is true of workspace, library and store at every moment, whatever has happened."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from asset_service.storage.tables import holds, uploads, workspace_assets
from library_service.storage.tables import blobs, item_files, outbox, user_library
from service_kit.blobs import LIBRARY_BUCKET, WORKSPACE_BUCKET
from tests.workspace_model.house import House

SEEN = "available"
_WITH_BYTES = ("available", "withheld", "hidden")


@dataclass
class State:
    """The rows of both services."""

    assets: dict[str, Any]
    uploads: list[Any]
    holds: list[Any]
    items: dict[str, Any]
    files: list[Any]
    blobs: dict[str, Any]
    outbox: list[Any]

    @property
    def kept(self) -> dict[str, Any]:
        """Items that were not deleted for good, by asset."""
        return {row.asset_id: row for row in self.items.values() if row.deleted_at is None}


async def read_state(house: House) -> State:
    """Read all."""
    assets, staged, held = await house.rows(house.asset_db, workspace_assets, uploads, holds)
    items, files, stored, owed = await house.rows(house.library_db, user_library, item_files, blobs, outbox)
    return State(
        {row.asset_id: row for row in assets},
        staged,
        held,
        {row.item_id: row for row in items},
        files,
        {row.blob_id: row for row in stored},
        owed,
    )


@dataclass
class Witness:
    """Checks each state, also against what was seen and wished before."""

    house: House
    # Assets that somebody asked to discard, items' assets that somebody asked to delete for good.
    discarded: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    # When each asset that was ever seen ends, at the latest that was promised.
    seen: dict[str, datetime] = field(default_factory=dict)

    async def check(self) -> State:
        """Read all and check it."""
        state = await read_state(self.house)
        self._check_library(state)
        self._check_workspace(state)
        self._check_nothing_lost(state)
        return state

    def _check_library(self, state: State) -> None:
        uses = Counter(row.blob_id for row in state.files)
        for row in state.files:
            blob = state.blobs[row.blob_id]
            assert blob.state == "live", "no item without its blob"
            assert state.items[row.item_id].deleted_at is None
            self._check_bytes(blob, LIBRARY_BUCKET)
        for item in state.items.values():
            assert (item.deleted_at is None) == any(row.item_id == item.item_id for row in state.files)
        for blob in state.blobs.values():
            assert blob.state != "live" or blob.ref_count == uses[blob.blob_id] > 0, "uses are counted"
        keys = {blob.key for blob in state.blobs.values()}
        assert self._keys(LIBRARY_BUCKET) <= keys, "no blob without its row"
        live = Counter((b.owner_id, b.sha256, b.size_bytes) for b in state.blobs.values() if b.state == "live")
        assert not live or max(live.values()) == 1, "identical bytes of one owner are stored once"

    def _check_workspace(self, state: State) -> None:
        keys = {row.key for row in state.uploads}
        for asset in state.assets.values():
            keys |= {asset.key} | {rendition["key"] for rendition in asset.renditions}
            if asset.state in _WITH_BYTES:
                self._check_bytes(asset, WORKSPACE_BUCKET)
                for rendition in asset.renditions:
                    assert (WORKSPACE_BUCKET, rendition["key"]) in self.house.blobs.files
            if asset.state != SEEN:
                assert asset.state == "hidden" or not asset.provenance, "a removed asset leaves ids and times"
        assert self._keys(WORKSPACE_BUCKET) <= keys, "no blob without its row"
        copies = Counter(a.source_item_id for a in state.assets.values() if a.state == SEEN and a.source_item_id)
        assert not copies or max(copies.values()) == 1

    def _check_nothing_lost(self, state: State) -> None:
        """What nobody has discarded or deleted, and whose time is not over, is in the workspace or in the library."""
        now = self.house.clock.now()
        for asset in state.assets.values():
            if asset.state == SEEN:
                self.seen[asset.asset_id] = max(asset.expires_at, self.seen.get(asset.asset_id, asset.expires_at))
        there = {asset.asset_id for asset in state.assets.values() if asset.state == SEEN} | state.kept.keys()
        sources = {asset.asset_id: asset.source_item_id for asset in state.assets.values() if asset.source_item_id}
        for asset_id, expires_at in self.seen.items():
            if asset_id in self.discarded | self.deleted or expires_at <= now:
                continue
            source = state.items.get(sources.get(asset_id, ""))
            is_copy_of_kept = source is not None and (source.deleted_at is None or source.asset_id in self.deleted)
            assert asset_id in there or is_copy_of_kept, "nothing is removed before its copy is committed"

    def _check_bytes(self, row: Any, bucket: str) -> None:
        known = self.house.blobs.files.get((bucket, row.key))
        assert known is not None, f"{row.key} has lost its bytes"
        assert (known[0].generation, known[0].sha256) == (row.generation, row.sha256)

    def _keys(self, bucket: str) -> set[str]:
        return {key for where, key in self.house.blobs.files if where == bucket}
