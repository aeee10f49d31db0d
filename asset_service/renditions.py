"""Fills in the renditions that assets lack, beside everything else: a queue of rows, worked off by a child process.

Each replica takes a few tasks for a time. What is made is an upload of its own, row before bytes, so that a crash
between any two steps leaves nothing behind; the task is due again when the time is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, replace
from datetime import timedelta

from asset_service.domain import (
    Asset,
    AssetState,
    Blob,
    EventKind,
    Media,
    RenditionFile,
    RenditionKind,
    RenditionTask,
    Upload,
    UploadState,
    part_key,
)
from asset_service.locks import UploadLocks
from asset_service.probing import Made, Probe
from asset_service.removal import Removal
from asset_service.spool import Spool
from asset_service.storage import Storage, Transaction
from asset_service.watch import Watchers
from service_kit import crash
from service_kit.blobs import WORKSPACE_BUCKET, BlobStore
from service_kit.errors import AtelierError, InvalidArgument, NotFound, Unavailable
from service_kit.identity import Owner
from service_kit.ids import new_id
from service_kit.telemetry import get_logger

log = get_logger(__name__)

MAX_ATTEMPTS = 5
"""How often a task is tried: a file that decodes is asked for again only when something around it failed."""

_AT_ONCE = 8
_LEASE = timedelta(minutes=10)
_FIRST_PAUSE = timedelta(seconds=5)
_POLL_S = 2.0
_LONGEST_REST_S = 5.0
_HURRY_S = 3.0
# Another replica may be making them: nobody tells us when it has.
_LOOK_S = 0.5
_MISSED_EVERY_S = 3600.0
_MISSED_AT_ONCE = 200
# What is hidden is held: whoever saved it before it was discarded waits for what it lacks.
_KEPT = (AssetState.AVAILABLE, AssetState.WITHHELD, AssetState.HIDDEN)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a task needs: the asset, and an upload with a row for each rendition that it lacks."""

    asset: Asset
    uploads: tuple[Upload, ...]


class Renditions:
    """The loop that makes renditions."""

    def __init__(
        self,
        storage: Storage,
        store: BlobStore,
        spool: Spool,
        locks: UploadLocks,
        removal: Removal,
        watchers: Watchers,
        probe: Probe,
    ) -> None:
        """Make them with a child of their own, so that uploads never wait for one."""
        self._storage = storage
        self._store = store
        self._spool = spool
        self._locks = locks
        self._removal = removal
        self._watchers = watchers
        self._probe = probe
        self._wanted = asyncio.Event()
        self._urgent = asyncio.Event()
        self._running = False
        self._hurried = 0
        self._ended = asyncio.Event()

    def nudge(self) -> None:
        """Say that there may be something to do."""
        self._wanted.set()

    async def run(self) -> None:
        """Work again and again, until cancelled; at most half of the time, so that uploads have the rest."""
        loop = asyncio.get_running_loop()
        self._running = True
        missed_at = loop.time()
        try:
            while True:
                begun = loop.time()
                if begun >= missed_at:
                    await self.queue_missed()
                    missed_at = loop.time() + _MISSED_EVERY_S
                self._wanted.clear()
                found = await self.work()
                rest_s = min(loop.time() - begun, _LONGEST_REST_S) if found else _POLL_S
                with suppress(TimeoutError):
                    async with asyncio.timeout(rest_s):
                        await (self._urgent if found else self._wanted).wait()
        finally:
            self._running = False

    async def hurry(self, owner: Owner, assets: Sequence[Asset]) -> list[Asset]:
        """Make what assets of an owner lack before anything else, and wait for it a moment. Returns them as they are.

        Whoever saves an asset copies its renditions with it, so they had better be there.
        """
        ids = [asset.asset_id for asset in assets if asset.lacking_renditions and not asset.rendition_error]
        if not ids or not self._running:
            return list(assets)
        async with self._storage.write() as tx:
            await tx.renditions.prefer(ids)
        self._hurried += 1
        self._urgent.set()
        self.nudge()
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(_HURRY_S):
                    # Taken before the look, so that none that ends in between is missed.
                    ended = self._ended
                    while await self._waiting(ids):
                        with suppress(TimeoutError):
                            async with asyncio.timeout(_LOOK_S):
                                await ended.wait()
                        ended = self._ended
        finally:
            self._hurried -= 1
            if not self._hurried:
                self._urgent.clear()
        async with self._storage.read() as tx:
            known = await tx.assets.find_many(ids, owner)
        now = {name: asset for name, asset in known.items() if asset.blob is not None}
        return [now.get(asset.asset_id, asset) for asset in assets]

    async def queue_missed(self) -> int:
        """Queue assets that nobody queued when they came, as an earlier release does not. Returns how many."""
        after, number = "", 0
        while True:
            async with self._storage.write() as tx:
                found = await tx.assets.find_bare(after=after, limit=_MISSED_AT_ONCE)
                await tx.renditions.queue(found)
            number += sum(bool(asset.lacking_renditions) for asset in found)
            if len(found) < _MISSED_AT_ONCE:
                return number
            after = found[-1].asset_id

    async def _waiting(self, asset_ids: Sequence[str]) -> bool:
        async with self._storage.read() as tx:
            return bool(await tx.renditions.waiting_among(asset_ids))

    async def work(self) -> int:
        """Do some of the tasks that are due. Returns how many there were."""
        async with self._storage.write() as tx:
            tasks = await tx.renditions.claim(_AT_ONCE, _LEASE)
        for task in tasks:
            try:
                await self._do(task)
            except InvalidArgument as error:
                await self._fail(task, error.message)
            except (AtelierError, OSError) as error:
                await self._postpone(task, str(error))
            finally:
                # Whoever waits looks; who waits from now on waits for the next one.
                self._ended.set()
                self._ended = asyncio.Event()
        return len(tasks)

    async def _do(self, task: RenditionTask) -> None:
        plan = await self._plan(task)
        if plan is None:
            return
        crash.reach("asset.renditions.planned")
        try:
            async with AsyncExitStack() as locks:
                for upload in plan.uploads:
                    await locks.enter_async_context(self._locks.hold(upload.upload_id))
                made = await self._make(plan)
                generations = [await self._put(upload, made) for upload in plan.uploads]
                crash.reach("asset.renditions.written")
                await self._publish(plan, made, generations)
        except BaseException:
            await asyncio.shield(self._give_up(plan))
            raise
        finally:
            await self._spool.remove(plan.uploads[0].upload_id)
        self._watchers.notify(plan.asset.owner)

    async def _plan(self, task: RenditionTask) -> _Plan | None:
        """Write a row for each rendition that is lacking. Returns None when there is nothing to do any more."""
        async with self._storage.write() as tx:
            asset = await _kept(tx, task)
            if asset is None or not asset.lacking_renditions:
                await tx.renditions.end([task.asset_id])
                return None
            deadline = await tx.now() + _LEASE
            uploads = tuple(
                Upload(
                    upload_id=upload_id,
                    asset_id=asset.asset_id,
                    owner=asset.owner,
                    job_id=None,
                    stage=0,
                    fence=0,
                    asset_index=asset.asset_index,
                    rendition=kind,
                    key=part_key(asset.owner, asset.asset_id, upload_id),
                    size_bytes=0,
                    sha256="",
                    state=UploadState.OPEN,
                    deadline_at=deadline,
                )
                for kind, upload_id in ((kind, new_id()) for kind in asset.lacking_renditions)
            )
            await tx.uploads.add_many(uploads)
        return _Plan(asset, uploads)

    async def _make(self, plan: _Plan) -> dict[RenditionKind, Made]:
        """Have the child make what is lacking of a copy in our own folder."""
        asset, name = plan.asset, plan.uploads[0].upload_id
        if asset.blob is None or asset.media is None:
            raise NotFound.of("asset", asset.asset_id)
        await self._spool.open(name)
        await self._spool.fill(
            name, self._store.open_range(asset.blob.bucket, asset.blob.key, generation=asset.blob.generation)
        )
        kinds = [upload.rendition.value for upload in plan.uploads if upload.rendition is not None]
        made = await self._probe.render(self._spool.path(name), kinds, content_type=asset.media.content_type)
        return {RenditionKind(one.kind): one for one in made}

    async def _put(self, upload: Upload, made: dict[RenditionKind, Made]) -> str:
        if upload.rendition is None or upload.rendition not in made:
            raise Unavailable("The process that makes renditions left one out.")
        one = made[upload.rendition]
        info = await self._store.put_bytes(WORKSPACE_BUCKET, upload.key, one.data, content_type=one.shape.content_type)
        return info.generation

    async def _publish(self, plan: _Plan, made: dict[RenditionKind, Made], generations: Sequence[str]) -> None:
        files = []
        for upload, generation in zip(plan.uploads, generations, strict=True):
            if upload.rendition is not None:
                blob = Blob(WORKSPACE_BUCKET, upload.key, generation)
                one = made[upload.rendition]
                media = Media.of(one.shape, len(one.data), one.sha256)
                files.append(RenditionFile(upload.rendition, blob, media))
        ids = [upload.upload_id for upload in plan.uploads]
        async with self._storage.write() as tx:
            asset = await _kept(tx, RenditionTask(plan.asset.asset_id, plan.asset.owner, 0))
            await tx.renditions.end([plan.asset.asset_id])
            still_ours = await tx.uploads.open_among(ids) == set(ids)
            if asset is None or asset.blob != plan.asset.blob or not still_ours:
                for upload_id in ids:
                    await tx.uploads.delete_later(upload_id)
                self._removal.nudge()
                return
            # The keys belong to the asset from now on.
            await tx.uploads.forget(ids)
            await _write(tx, asset, replace(asset, renditions=(*asset.renditions, *files), rendition_error=""))

    async def _give_up(self, plan: _Plan) -> None:
        async with self._storage.write() as tx:
            for upload in plan.uploads:
                await tx.uploads.delete_later(upload.upload_id)
        self._removal.nudge()

    async def _fail(self, task: RenditionTask, reason: str) -> None:
        """Say at the asset why it has no renditions, and leave it at that."""
        log.warning("renditions_failed", asset_id=task.asset_id, attempts=task.attempts, error=reason)
        async with self._storage.write() as tx:
            await tx.renditions.end([task.asset_id])
            asset = await _kept(tx, task)
            if asset is not None:
                await _write(tx, asset, replace(asset, rendition_error=reason))
        self._watchers.notify(task.owner)

    async def _postpone(self, task: RenditionTask, reason: str) -> None:
        if task.attempts >= MAX_ATTEMPTS:
            await self._fail(task, f"After {task.attempts} attempts: {reason}")
            return
        log.info("renditions_postponed", asset_id=task.asset_id, attempts=task.attempts, error=reason)
        async with self._storage.write() as tx:
            await tx.renditions.postpone(task.asset_id, _FIRST_PAUSE * 4 ** (task.attempts - 1))


async def _kept(tx: Transaction, task: RenditionTask) -> Asset | None:
    """Lock and return the asset of a task; None when nobody can want it any more."""
    asset = (await tx.assets.lock([task.asset_id], task.owner)).get(task.asset_id)
    return asset if asset is not None and asset.state in _KEPT else None


async def _write(tx: Transaction, before: Asset, after: Asset) -> None:
    changed = replace(after, version=before.version + 1)
    if not await tx.assets.replace(changed, expected_version=before.version):
        raise RuntimeError("an asset changed although its row was locked")
    if not changed.state.gone:
        tx.events.add(EventKind.CHANGED, changed)
