"""Copies items back into workspaces, to be used as references. The asset service makes the copies."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from library_service.clients import AssetControl
from library_service.domain import Item
from library_service.storage import Storage
from service_kit.errors import AtelierError, NotFound
from service_kit.identity import Caller

_AT_ONCE = 8
Result = bytes | AtelierError
"""The asset, as a client is told of it (opaque here), or why there is none."""


class CopyingBack:
    """Asks for copies. Each by itself: one that fails harms no other."""

    def __init__(self, storage: Storage, assets: AssetControl) -> None:
        self._storage = storage
        self._assets = assets

    async def copy(self, caller: Caller, item_ids: Sequence[str]) -> list[Result]:
        """Copy items of the caller into its workspace. Returns what became of each, in the order that was asked."""
        async with self._storage.read() as tx:
            found = await tx.saves.find_items(caller.owner, item_ids)
        turns = asyncio.Semaphore(_AT_ONCE)

        async def copy(item: Item) -> Result:
            async with turns:
                try:
                    return await self._assets.copy_item(item)
                except AtelierError as error:
                    return error

        live = {item_id: item for item_id, item in found.items() if item.trashed_at is None}
        copied = dict(zip(live, await asyncio.gather(*map(copy, live.values())), strict=True))
        return [copied.get(item_id) or NotFound.of("item", item_id) for item_id in item_ids]
