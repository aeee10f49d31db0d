"""The asset service's storage: what upkeep finds to do, and in which order."""

from __future__ import annotations

from sqlalchemy import select

from asset_service.domain import (
    AssetState,
    Blob,
    RenditionFile,
    RenditionKind,
    RenditionTask,
    UploadState,
)
from asset_service.storage import Storage
from asset_service.storage.tables import audit
from service_kit.clock import ManualClock
from tests.storage.asset_rows import ANN, BOB, HOUR, PNG, SECOND, asset, put, upload


async def test_what_is_due_comes_longest_overdue_first(asset_: Storage, clock: ManualClock) -> None:
    now = clock.now()
    await put(
        asset_,
        asset("late", clock, expires_at=now - SECOND),
        asset("later", clock, expires_at=now - HOUR, state=AssetState.WITHHELD),
        asset("now", clock, expires_at=now),
        asset("gone", clock, expires_at=now - HOUR, state=AssetState.HIDDEN),
        asset("fresh", clock, expires_at=now + SECOND),
    )
    async with asset_.write() as tx:
        assert [one.asset_id for one in await tx.assets.due(9)] == ["later", "late", "now"]
        assert [one.asset_id for one in await tx.assets.due(1)] == ["later"]


async def test_hidden_assets_are_let_go_when_nobody_holds_them(asset_: Storage, clock: ManualClock) -> None:
    await put(asset_, *(asset(name, clock, state=AssetState.HIDDEN) for name in ("free", "held", "kept", "lapsed")))
    await put(asset_, asset("seen", clock))
    async with asset_.write() as tx:
        await tx.holds.take("library", ["held"], HOUR)
        await tx.holds.take("library", ["lapsed"], SECOND)
        await tx.holds.take("library", ["kept"], None)
    clock.advance(SECOND)
    async with asset_.write() as tx:
        assert {one.asset_id for one in await tx.assets.let_go(9)} == {"free", "lapsed"}
        assert len(await tx.assets.let_go(1)) == 1


async def test_deletions_and_tombstones_are_found_in_order(asset_: Storage, clock: ManualClock) -> None:
    await put(asset_, *(asset(name, clock, state=AssetState.DELETING) for name in ("c", "a", "b")))
    await put(asset_, asset("kept", clock))
    removed = {"state": AssetState.REMOVED, "expires_at": clock.now()}
    await put(asset_, asset("old", clock, **removed), asset("waits", clock, **removed))
    await put(asset_, upload("u", asset_id="waits"))
    async with asset_.write() as tx:
        assert [one.asset_id for one in await tx.assets.deleting("", 9)] == ["a", "b", "c"]
        assert [one.asset_id for one in await tx.assets.deleting("a", 1)] == ["b"]
        assert await tx.assets.trim(SECOND) == 0
        clock.advance(SECOND)
        assert await tx.assets.trim(SECOND) == 1
        assert set(await tx.assets.owners(["old", "waits", "kept"])) == {"waits", "kept"}


async def test_a_sweep_finds_the_rows_of_blobs_and_the_rows_that_should_have_them(
    asset_: Storage, clock: ManualClock
) -> None:
    gone = asset("c", clock, state=AssetState.DELETING)
    made = asset("d", clock, job_id="j")
    await put(asset_, asset("a", clock), asset("b", clock, owner=BOB), gone, made)
    await put(asset_, upload("u1", state=UploadState.STAGED), upload("u2"), upload("u3", state=UploadState.DELETING))
    async with asset_.read() as tx:
        assert [one.asset_id for one in await tx.assets.with_bytes("", 2)] == ["a", "b"]
        assert [one.asset_id for one in await tx.assets.with_bytes("b", 2)] == ["d"]
        assert [one.asset_id for one in await tx.assets.with_ids(["b", "unknown"])] == ["b"]
        # The key of a job's output says which asset it is.
        assert sorted(one.asset_id for one in await tx.assets.with_keys(["key-a", "key-c", "key-d"])) == ["a", "c"]
        assert await tx.assets.with_rendition_at("thumb-b") == "b"
        assert await tx.assets.with_rendition_at("thumb-") is None
        assert await tx.assets.with_rendition_at("thumb_b") is None
        assert await tx.uploads.at_keys(["key-u1", "key-u3", "key-u4"]) == {"key-u1": "u1", "key-u3": "u3"}
        assert [one.upload_id for one in await tx.uploads.staged("", 9)] == ["u1"]
        assert not await tx.uploads.staged("u1", 9)


async def test_what_is_an_owners_is_found_to_be_erased(asset_: Storage, clock: ManualClock) -> None:
    gone = asset("c", clock, state=AssetState.DELETING)
    removed = asset("d", clock, state=AssetState.REMOVED)
    await put(asset_, asset("a", clock), asset("b", clock, owner=BOB), gone, removed)
    await put(asset_, upload("u1"), upload("u2", owner=BOB), upload("u3", state=UploadState.DELETING))
    async with asset_.write() as tx:
        assert [one.asset_id for one in await tx.assets.of_owner(ANN, 9)] == ["a"]
        assert await tx.assets.of_owner(ANN, 0) == []
        assert [one.asset_id for one in await tx.assets.owned_deleting(ANN, limit=9)] == ["c"]
        assert await tx.assets.owned_deleting(ANN, after="c", limit=9) == []
        assert await tx.uploads.delete_later_of_owner(ANN, 0) == 0
        assert await tx.uploads.delete_later_of_owner(ANN, 9) == 1
        assert [one.upload_id for one in await tx.uploads.owned_deleting(ANN, limit=9)] == ["u1", "u3"]
        assert [one.upload_id for one in await tx.uploads.owned_deleting(ANN, after="u1", limit=1)] == ["u3"]
        assert not await tx.uploads.owned_deleting(BOB, limit=9)


async def test_the_audit_says_what_was_done_until_it_is_old(asset_: Storage, clock: ManualClock) -> None:
    async with asset_.write() as tx:
        assert await tx.now() == clock.now()
        await tx.note("published", ANN, "a", count=2)
        await tx.note_all([("removed", BOB, "b", {}), ("removed", BOB, "c", {"why": "expired"})])
        await tx.note_all([])
        rows = (await tx._connection.execute(select(audit).order_by(audit.c.subject_id))).all()
        assert [(row.at, row.owner_id, row.action, row.subject_id, row.detail) for row in rows] == [
            (clock.now(), "ann", "published", "a", {"count": 2}),
            (clock.now(), "bob", "removed", "b", None),
            (clock.now(), "bob", "removed", "c", {"why": "expired"}),
        ]
        assert await tx.trim_audit(SECOND) == 0
        clock.advance(SECOND)
        assert await tx.trim_audit(SECOND) == 3


async def test_assets_that_lack_renditions_are_queued_and_claimed_once(asset_: Storage, clock: ManualClock) -> None:
    whole = RenditionFile(RenditionKind.THUMB_1024, Blob("workspace", "thumb-1024", "1"), PNG)
    bare = asset("a", clock, renditions=())
    ready = asset("b", clock, renditions=(*asset("b", clock).renditions, whole))
    gone = asset("c", clock, state=AssetState.REMOVED, media=None, blob=None, renditions=())
    async with asset_.write() as tx:
        await tx.assets.add_many([bare, ready, gone])
        await tx.assets.add(asset("d", clock, owner=BOB))
        assert await tx.renditions.count() == 2
    assert bare.lacking_renditions == (RenditionKind.THUMB_256, RenditionKind.THUMB_1024)
    assert ready.lacking_renditions == gone.lacking_renditions == ()
    async with asset_.write() as tx:
        assert await tx.renditions.claim(1, HOUR) == [RenditionTask("a", ANN, 1)]
    async with asset_.write() as tx:
        assert await tx.renditions.claim(9, HOUR) == [RenditionTask("d", BOB, 1)]
        assert await tx.renditions.claim(9, HOUR) == []
        await tx.renditions.postpone("a", SECOND)
    clock.advance(SECOND)
    async with asset_.write() as tx:
        assert await tx.renditions.claim(9, HOUR) == [RenditionTask("a", ANN, 2)]
        await tx.assets.add(asset("e", clock, renditions=()))
        await tx.assets.add(asset("f", clock, renditions=()))
        await tx.renditions.prefer(["a", "f"])
        assert await tx.renditions.waiting_among(["a", "b", "f"]) == {"a", "f"}
        assert await tx.renditions.claim(1, HOUR) == [RenditionTask("f", ANN, 1)]
        await tx.renditions.end(["e", "f"])
        await tx.renditions.end(["a", "unknown"])
        assert await tx.renditions.count() == 1


async def test_assets_of_an_earlier_release_are_found_and_queued(asset_: Storage, clock: ManualClock) -> None:
    failed = asset("c", clock, renditions=(), rendition_error="too odd")
    gone = asset("d", clock, state=AssetState.REMOVED, media=None, blob=None, renditions=())
    bare = [asset(name, clock, renditions=()) for name in ("a", "b", "e")]
    async with asset_.write() as tx:
        await tx.assets.add_many([*bare, failed, gone, asset("f", clock)])
        assert await tx.assets.find_bare(after="", limit=9) == [], "they are queued"
        await tx.renditions.end(["a", "b", "c", "d", "f"])
    async with asset_.write() as tx:
        assert [one.asset_id for one in await tx.assets.find_bare(after="", limit=9)] == ["a", "b"]
        assert [one.asset_id for one in await tx.assets.find_bare(after="a", limit=1)] == ["b"]
        await tx.renditions.queue(bare)
        await tx.renditions.queue([])
        assert await tx.renditions.waiting_among(["a", "b", "e"]) == {"a", "b", "e"}
        assert await tx.renditions.count() == 3
