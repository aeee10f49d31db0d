"""Clears workspaces: what is not saved is saved, and only then removed. What cannot be saved stays where it was."""

from __future__ import annotations

from collections.abc import Sequence

from library_service.clients import AssetControl
from library_service.domain import ClearResult, SaveResult
from library_service.saving import Saving
from library_service.storage import Storage
from service_kit import crash
from service_kit.errors import AtelierError, FailedPrecondition, NotFound
from service_kit.identity import Caller
from service_kit.telemetry import get_logger

DEFAULT_PAGE_SIZE = 100
# A job has fewer outputs than that.
_WHOLE_JOB = 200

log = get_logger(__name__)


class Clearing:
    """Saves and removes assets. May break off anywhere: what was not removed is still there, and a repeat goes on."""

    def __init__(self, storage: Storage, saving: Saving, assets: AssetControl) -> None:
        self._storage = storage
        self._saving = saving
        self._assets = assets

    async def clear(self, caller: Caller, asset_ids: Sequence[str], key: str = "") -> list[ClearResult]:
        """Clear assets of the caller's workspace. Returns what became of each, in the order that was asked.

        Raises:
            Unavailable: the asset service cannot be reached and nothing was saved.
        """
        saved = await self._saving.save(caller, asset_ids, key) if asset_ids else []
        crash.reach("library.clear.saved")
        # The items are asked, never a mark: what is in the trash, or gone since, is not saved.
        wanted = [result.item.item_id for result in saved if result.item is not None]
        async with self._storage.read() as tx:
            items = await tx.saves.find_items(caller.owner, wanted)
        kept = {item_id for item_id, item in items.items() if item.trashed_at is None}
        done = [result.asset_id for result in saved if result.item is not None and result.item.item_id in kept]
        still_there = await self._remove(caller, list(dict.fromkeys(done)))
        crash.reach("library.clear.removed")
        return [_result(result, kept, still_there) for result in saved]

    async def clear_job(self, caller: Caller, job_id: str) -> list[ClearResult]:
        """Clear all assets of a job. Returns what became of each, by index. Raises as `clear` does."""
        asset_ids, _ = await self._assets.list_assets(caller.owner, job_id=job_id, page_size=_WHOLE_JOB)
        return await self.clear(caller, asset_ids)

    async def clear_workspace(
        self, caller: Caller, *, page_size: int | None, page_token: str
    ) -> tuple[list[ClearResult], str]:
        """Clear a page of the workspace. Returns what became of each asset, and the token of the next page.

        The pages go from the newest to the oldest, so what stays, and what comes meanwhile, stops nobody.

        Raises:
            InvalidArgument: the token is not one of ours.
            Unavailable: the asset service cannot be reached and nothing was saved.
        """
        asset_ids, following = await self._assets.list_assets(
            caller.owner, page_size=page_size or DEFAULT_PAGE_SIZE, page_token=page_token
        )
        return await self.clear(caller, asset_ids), following

    async def _remove(self, caller: Caller, asset_ids: Sequence[str]) -> dict[str, AtelierError]:
        """Remove assets. Returns why, for those that are still there: they are saved, and stay."""
        if not asset_ids:
            return {}
        try:
            return await self._assets.discard(caller.owner, asset_ids)
        except AtelierError as error:
            log.warning("clearing_broke_off", count=len(asset_ids), error=error.message)
            return dict.fromkeys(asset_ids, error)


def _result(saved: SaveResult, kept: set[str], still_there: dict[str, AtelierError]) -> ClearResult:
    if saved.item is None:
        return ClearResult(saved.asset_id, failure=saved.failure or NotFound.of("asset", saved.asset_id))
    if saved.item.item_id not in kept:
        gone = FailedPrecondition("Its item was put into the trash meanwhile; the asset stays where it was.")
        return ClearResult(saved.asset_id, failure=gone)
    if saved.asset_id in still_there:
        return ClearResult(saved.asset_id, failure=still_there[saved.asset_id])
    return ClearResult(saved.asset_id, item=saved.item)
