"""What happens in a workspace, told to those who watch it: from a cursor on, or after a snapshot."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from asset_service.domain import Asset, AssetEvent, EventKind
from asset_service.storage import Storage
from service_kit.events import encode_cursor
from service_kit.events.followers import Changes, Followers
from service_kit.identity import Owner

SNAPSHOT_ASSETS = 200
_BATCH = 200


@dataclass(frozen=True, slots=True)
class Told:
    """One message to a watcher: a snapshot (no kind), or what happened to one asset, as the asset is now."""

    cursor: str
    kind: EventKind | None
    assets: Sequence[Asset]


class Watchers:
    """Everybody who watches a workspace."""

    def __init__(self, storage: Storage, changes: Changes) -> None:
        self._storage = storage
        self._changes = changes
        self.followers = Followers(changes.wake_ups, self._find_changed)

    def notify(self, owner: Owner) -> None:
        """Wake those who watch an owner's workspace; call it after the commit."""
        self._changes.tell(owner)

    async def watch(self, owner: Owner, cursor: str, *, once: bool = False) -> AsyncGenerator[Told]:
        """Give what happens to an owner's assets; first a snapshot when the cursor does not resume.

        Without an end, or until now where `once` is set.
        """
        async with self._storage.read() as tx:
            place = await tx.events.place(owner)
            position = place.after(cursor)
            assets: Sequence[Asset] = ()
            if position is None:
                assets = await tx.assets.list_page(owner, job_id="", after=None, limit=SNAPSHOT_ASSETS)
        with self.followers.follow(owner, place.position if position is None else position) as follower:
            if position is None:
                yield Told(place.cursor, None, assets)
            while True:
                events, known = await self._look(owner, follower.position)
                for event in events:
                    follower.position = event.position
                    told = _tell(event, known.get(event.asset_id))
                    if told is not None:
                        yield Told(encode_cursor(place.epoch, event.position), event.kind, [told])
                if len(events) < _BATCH:
                    if once:
                        return
                    await follower.wait()

    async def _find_changed(self, since: Sequence[tuple[Owner, int]]) -> list[tuple[Owner, str, int]]:
        async with self._storage.read() as tx:
            return await tx.events.changed(since)

    async def _look(self, owner: Owner, position: int) -> tuple[Sequence[AssetEvent], dict[str, Asset]]:
        async with self._storage.read() as tx:
            events = await tx.events.after(position, owner, _BATCH)
            if not events:
                return events, {}
            return events, await tx.assets.find_many([event.asset_id for event in events], owner)


def _tell(event: AssetEvent, asset: Asset | None) -> Asset | None:
    """Return the asset to tell of; None for what was overtaken by a removal, which is told by its own event."""
    if asset is None:
        return None
    return asset if asset.state.gone == (event.kind is EventKind.REMOVED) else None
