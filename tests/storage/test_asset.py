"""The asset service's storage."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select

from asset_service.domain import (
    Asset,
    AssetSource,
    AssetState,
    Blob,
    EventKind,
    Media,
    RenditionFile,
    RenditionKind,
    RenditionTask,
    Settlement,
    Upload,
    UploadState,
)
from asset_service.storage import Storage
from asset_service.storage.tables import audit
from service_kit.clock import ManualClock
from service_kit.database import Database
from service_kit.errors import Aborted, ErrorReason, FailedPrecondition
from service_kit.identity import Owner

ANN, BOB, OTHER = Owner("t", "ann"), Owner("t", "bob"), Owner("u", "ann")
HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)
PNG = Media("image/png", 2**40, "ab", 640, 480)


def asset(asset_id: str, clock: ManualClock, **changes: Any) -> Asset:
    thumb = RenditionFile(RenditionKind.THUMB_256, Blob("workspace", f"thumb-{asset_id}", "1"), PNG)
    made = Asset(
        asset_id=asset_id,
        owner=ANN,
        job_id=None,
        asset_index=0,
        source=AssetSource.UPLOAD,
        state=AssetState.AVAILABLE,
        media=PNG,
        blob=Blob("workspace", f"key-{asset_id}", "7"),
        renditions=(thumb,),
        provenance=b"\0prov",
        filename="café.png",
        saved_item_id="",
        saved_version=0,
        created_at=clock.now(),
        expires_at=clock.now() + HOUR,
        version=1,
    )
    return dataclasses.replace(made, **changes)


def upload(upload_id: str, **changes: Any) -> Upload:
    made = Upload(
        upload_id=upload_id,
        asset_id=f"asset-{upload_id}",
        owner=ANN,
        job_id="j1",
        stage=0,
        fence=1,
        asset_index=0,
        rendition=None,
        key=f"key-{upload_id}",
        size_bytes=2**40,
        sha256=upload_id,
        state=UploadState.OPEN,
    )
    return dataclasses.replace(made, **changes)


async def put(storage: Storage, *things: Asset | Upload) -> None:
    async with storage.write() as tx:
        for thing in things:
            if isinstance(thing, Asset):
                await tx.assets.add(thing)
            else:
                await tx.uploads.add(thing)


async def test_an_asset_comes_back_as_it_was_and_only_for_its_owner(asset_: Storage, clock: ManualClock) -> None:
    whole = asset("a", clock)
    tombstone = asset("b", clock, state=AssetState.REMOVED, media=None, blob=None, renditions=())
    async with asset_.write() as tx:
        await tx.assets.add(whole)
        await tx.assets.add_many([tombstone, asset("c", clock, owner=BOB)])
        await tx.assets.add_many([])
    async with asset_.read() as tx:
        assert await tx.assets.find("a", ANN) == whole
        assert await tx.assets.find("b", ANN) == tombstone
        for owner in (BOB, OTHER):
            assert await tx.assets.find("a", owner) is None
        assert await tx.assets.find_many(["a", "b", "c", "unknown"], ANN) == {"a": whole, "b": tombstone}
        assert await tx.assets.find_many([], ANN) == {}
        assert await tx.assets.owners(["b", "c", "unknown"]) == {"b": ANN, "c": BOB}
    async with asset_.write() as tx:
        assert await tx.assets.lock(["c", "a", "unknown"], ANN) == {"a": whole}
        assert await tx.assets.lock(["a"], OTHER) == {}


async def test_what_is_seen_is_listed_newest_group_first(asset_: Storage, clock: ManualClock) -> None:
    await put(
        asset_,
        *(asset(f"j2-{index}", clock, job_id="j2", asset_index=index) for index in (1, 0)),
        asset("j1-0", clock, job_id="j1"),
        asset("j3-0", clock, job_id="j3", owner=BOB),
        asset("j4-0", clock, job_id="j4", state=AssetState.WITHHELD),
        asset("u", clock),
    )
    async with asset_.read() as tx:
        everything = await tx.assets.list_page(ANN, job_id="", after=None, limit=9)
        assert [one.asset_id for one in everything] == ["u", "j2-0", "j2-1", "j1-0"]
        page = await tx.assets.list_page(ANN, job_id="", after=None, limit=2)
        rest = await tx.assets.list_page(ANN, job_id="", after=(page[-1].group_id, page[-1].asset_index), limit=9)
        assert [one.asset_id for one in rest] == ["j2-1", "j1-0"]
        assert [one.asset_id for one in await tx.assets.list_page(ANN, job_id="j1", after=None, limit=9)] == ["j1-0"]
        assert await tx.assets.list_page(OTHER, job_id="", after=None, limit=9) == []


async def test_an_asset_is_written_only_over_the_version_that_was_read(asset_: Storage, clock: ManualClock) -> None:
    await put(asset_, asset("a", clock))
    newer = asset("a", clock, version=2, state=AssetState.WITHHELD)
    async with asset_.write() as tx:
        assert await tx.assets.replace(newer, expected_version=1)
        assert not await tx.assets.replace(asset("a", clock, version=2), expected_version=1)
        assert not await tx.assets.replace(asset("unknown", clock), expected_version=1)
        assert await tx.assets.find("a", ANN) == newer


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


async def test_an_upload_comes_back_as_it_was(asset_: Storage, clock: ManualClock) -> None:
    plain = upload("u1")
    rich = upload(
        *("u2",),
        rendition=RenditionKind.POSTER,
        state=UploadState.STAGED,
        deadline_at=clock.now(),
        generation="9",
        media=PNG,
        output_upload_id="u1",
        receipt="receipt",
    )
    await put(asset_, plain, rich)
    async with asset_.read() as tx:
        assert await tx.uploads.find("u1") == plain
        assert await tx.uploads.find("u2") == rich
        assert await tx.uploads.find("unknown") is None
        assert await tx.uploads.open_among(["u1", "u2", "unknown"]) == {"u1"}


async def test_renditions_are_those_of_one_staged_output(asset_: Storage) -> None:
    output = upload("u1", asset_id="a")
    changes: dict[str, Any] = {"asset_id": "a", "rendition": RenditionKind.POSTER, "state": UploadState.STAGED}
    mine = [upload(name, **changes, output_upload_id="u1") for name in ("u3", "u2")]
    others = [
        upload("u4", **{**changes, "state": UploadState.OPEN}, output_upload_id="u1"),
        upload("u5", **changes, output_upload_id="u9"),
    ]
    async with asset_.write() as tx:
        await tx.uploads.add_many([output, *mine, *others, upload("u6", job_id="j2")])
        await tx.uploads.add_many([])
        assert [one.upload_id for one in await tx.uploads.renditions_of(output)] == ["u2", "u3"]
        assert await tx.uploads.renditions_of(mine[0]) == []
        found = await tx.uploads.of_jobs(["j1", "unknown"])
        assert sorted(one.upload_id for one in found) == ["u1", "u2", "u3", "u4", "u5"]
        assert await tx.uploads.of_jobs([]) == []


async def test_many_are_staged_at_once(asset_: Storage) -> None:
    staged = [upload(name, state=UploadState.STAGED, generation="1", media=PNG, receipt=name) for name in ("u1", "u2")]
    await put(asset_, upload("u1"), upload("u2"), upload("u3"))
    async with asset_.write() as tx:
        await tx.uploads.stage_many(staged)
        await tx.uploads.stage_many([])
        assert sorted(await tx.uploads.of_jobs(["j1"]), key=lambda one: one.upload_id) == [*staged, upload("u3")]


async def test_the_same_upload_is_found_by_what_it_is_of(asset_: Storage) -> None:
    await put(asset_, upload("u1", sha256="one"), upload("u2", sha256="two"), upload("u3", fence=2, sha256="one"))
    async with asset_.read() as tx:
        same = await tx.uploads.find_same(upload("other", sha256="two"))
        assert same is not None
        assert same.upload_id == "u2"
        for changes in ({"fence": 3}, {"size_bytes": 1}, {"job_id": "j2"}, {"rendition": RenditionKind.CLIP}):
            assert await tx.uploads.find_same(upload("other", **{"sha256": "one", **changes})) is None
        assert await tx.uploads.count_same_file(upload("other")) == 2
        assert await tx.uploads.count_same_file(upload("other", fence=2)) == 1


async def test_uploads_of_an_asset_are_those_of_its_owner_that_may_become_it(asset_: Storage) -> None:
    mine = [upload(name, asset_id="a") for name in ("u1", "u2")]
    deleting = upload("u3", asset_id="a", state=UploadState.DELETING)
    await put(asset_, *mine, deleting, upload("u4", asset_id="a", owner=BOB), upload("u5", asset_id="a", job_id=None))
    async with asset_.read() as tx:
        found = await tx.uploads.of_assets(["a", "unknown"], ANN)
        assert sorted(one.upload_id for one in found) == ["u1", "u2"]
        assert await tx.uploads.of_assets(["a"], OTHER) == []


async def test_only_an_open_upload_is_staged(asset_: Storage) -> None:
    await put(asset_, upload("u1"), upload("u2", state=UploadState.DELETING))
    staged = upload("u1", state=UploadState.STAGED, generation="1", media=PNG)
    async with asset_.write() as tx:
        assert await tx.uploads.stage(staged)
        assert await tx.uploads.find("u1") == staged
        assert not await tx.uploads.stage(staged)
        assert not await tx.uploads.stage(upload("u2", state=UploadState.STAGED))
        assert not await tx.uploads.stage(upload("unknown"))


async def test_uploads_are_given_up_once_and_then_forgotten(asset_: Storage, clock: ManualClock) -> None:
    past, now = clock.now() - SECOND, clock.now()
    await put(asset_, *(upload(f"j1-{n}") for n in range(2)), upload("j2-0", job_id="j2"), upload("j3-0", job_id="j3"))
    await put(
        asset_,
        upload("late", job_id=None, deadline_at=now),
        upload("fresh", job_id=None, deadline_at=now + SECOND),
        upload("of-a-job", job_id="j4", deadline_at=past),
    )
    async with asset_.write() as tx:
        locked = await tx.uploads.lock_jobs(["j2", "j1", "unknown"])
        assert [one.upload_id for one in locked] == ["j1-0", "j1-1", "j2-0"]
        assert await tx.uploads.delete_later("j3-0")
        assert not await tx.uploads.delete_later("j3-0")
        assert await tx.uploads.delete_later_of_jobs(["j1", "j2", "j3"]) == 3
        assert await tx.uploads.delete_overdue_later() == 1
        assert await tx.uploads.lock_jobs(["j1", "j2"]) == []
        deleting = await tx.uploads.deleting("", 9)
        assert [one.upload_id for one in deleting] == ["j1-0", "j1-1", "j2-0", "j3-0", "late"]
        assert [one.upload_id for one in await tx.uploads.deleting("j1-1", 1)] == ["j2-0"]
        await tx.uploads.forget(one.upload_id for one in deleting)
        assert await tx.uploads.deleting("", 9) == []
        assert await tx.uploads.find("late") is None
        assert await tx.uploads.find("fresh") is not None


async def test_a_settled_job_stays_settled_and_takes_nothing_more(asset_: Storage, clock: ManualClock) -> None:
    first = Settlement("j1", ANN, (0, 1), (2,))
    refused = Settlement("j2", BOB, (), (), "already_gone")
    async with asset_.write() as tx:
        await tx.lock_jobs(["j2", "j1"])
        await tx.settlements.refuse_settled("j1")
        await tx.settlements.add_many([first, refused])
        assert await tx.settlements.find_many(["j1", "j2", "unknown"]) == {"j1": first, "j2": refused}
        assert await tx.settlements.find_many([]) == {}
    async with asset_.write() as tx:
        await tx.keep_open("j3")
        for refuse in (tx.keep_open, tx.settlements.refuse_settled):
            with pytest.raises(FailedPrecondition) as caught:
                await refuse("j1")
            assert caught.value.reason is ErrorReason.ALREADY_SETTLED
    clock.advance(SECOND)
    async with asset_.write() as tx:
        assert await tx.settlements.trim(2 * SECOND) == 0
        assert await tx.settlements.trim(SECOND) == 2
        await tx.settlements.refuse_settled("j1")


async def test_who_looks_whether_jobs_are_settled_has_their_locks_first(
    open_database: Callable[[str], Database],
) -> None:
    """The look sees a settlement that had the lock before it."""
    one, two = Storage(open_database("asset")), Storage(open_database("asset"))
    has_lock, order = asyncio.Event(), list[str]()

    async def look() -> None:
        await has_lock.wait()
        async with two.write() as tx:
            assert (await tx.settled_among(["j2", "j1"])).keys() == {"j1"}
            order.append("looked")

    async with asyncio.TaskGroup() as group:
        looking = group.create_task(look())
        async with one.write() as tx:
            assert await tx.settled_among(["j1"]) == {}
            has_lock.set()
            done, _ = await asyncio.wait({looking}, timeout=0.05)
            assert not done
            await tx.settlements.add_many([Settlement("j1", ANN, (), ())])
            order.append("settled")
    assert order == ["settled", "looked"]
    async with one.write() as tx:
        assert await tx.settled_among([]) == {}


async def test_who_keeps_a_job_open_keeps_it_from_being_settled(open_database: Callable[[str], Database]) -> None:
    """On two connections, as two replicas have them."""
    one, two = Storage(open_database("asset")), Storage(open_database("asset"))
    kept, order = asyncio.Event(), list[str]()

    async def settle() -> None:
        await kept.wait()
        async with two.write() as tx:
            await tx.lock_jobs(["j2", "j1"])
            order.append("locked")
            await tx.settlements.add_many([Settlement("j1", ANN, (), ())])

    async with asyncio.TaskGroup() as group:
        settling = group.create_task(settle())
        async with one.write() as tx:
            await tx.keep_open("j1")
            kept.set()
            done, _ = await asyncio.wait({settling}, timeout=0.05)
            assert not done
            order.append("kept")
    assert order == ["kept", "locked"]


async def test_holds_last_until_their_time_or_for_good(asset_: Storage, clock: ManualClock) -> None:
    async with asset_.write() as tx:
        await tx.holds.take("library", ["a", "b", "b"], SECOND)
        await tx.holds.take("job", ["a"], None)
        await tx.holds.take("job", [], SECOND)
        # What was held for good stays so.
        await tx.holds.take("job", ["a"], SECOND)
        assert await tx.holds.is_held("b")
        assert not await tx.holds.is_held("c")
        assert await tx.holds.of_holder("library", ["a", "b", "c"]) == {"a", "b"}
        assert await tx.holds.of_holder("nobody", ["a"]) == set()
        clock.advance(SECOND)
        assert not await tx.holds.is_held("b")
        assert await tx.holds.is_held("a")
        assert await tx.holds.of_holder("library", ["b"]) == {"b"}
        await tx.holds.take("library", ["b"], SECOND)
        assert await tx.holds.is_held("b")
        clock.advance(2 * SECOND)
        assert await tx.holds.forget_lapsed(2 * SECOND) == 1
        assert await tx.holds.of_holder("library", ["a", "b"]) == {"b"}
        assert await tx.holds.release(["job", "unknown"]) == 1
        assert not await tx.holds.is_held("a")
        assert await tx.holds.held_among(["a", "b", "c"]) == set()
        await tx.holds.take("library", ["b", "c"], SECOND)
        assert await tx.holds.held_among(["a", "b", "c"]) == {"b", "c"}
        await tx.holds.forget(["b", "c"])
        assert await tx.holds.release(["library"]) == 0


async def test_changes_of_many_assets_are_written_over_the_versions_that_were_read(
    asset_: Storage, clock: ManualClock
) -> None:
    before = [asset(name, clock) for name in ("a", "b")]
    hidden = [
        dataclasses.replace(before[0], state=AssetState.HIDDEN, version=2),
        dataclasses.replace(before[1], state=AssetState.DELETING, version=2, provenance=b"", filename=""),
    ]
    longer = [dataclasses.replace(one, expires_at=one.expires_at + HOUR, version=3) for one in hidden]
    saved = [dataclasses.replace(one, saved_item_id="i", saved_version=4, version=4) for one in longer]
    async with asset_.write() as tx:
        await tx.assets.add_many(before)
        assert await tx.assets.take_away(hidden) == 2
        assert await tx.assets.take_away(hidden) == 0
        assert await tx.assets.extend(longer) == 2
        assert await tx.assets.mark([saved[0], dataclasses.replace(saved[1], version=9)]) == 1
        assert await tx.assets.find_many(["a", "b"], ANN) == {"a": saved[0], "b": longer[1]}
        assert await tx.assets.take_away([]) == 0


async def test_an_item_has_one_copy_at_a_time(asset_: Storage, clock: ManualClock) -> None:
    copy = asset("a", clock, source=AssetSource.ITEM, source_item_id="i")
    async with asset_.write() as tx:
        await tx.assets.add(copy)
        await tx.assets.add(dataclasses.replace(copy, asset_id="b", owner=BOB))
    with pytest.raises(Aborted):
        async with asset_.write() as tx:
            await tx.assets.add(dataclasses.replace(copy, asset_id="c"))
    async with asset_.write() as tx:
        assert await tx.assets.find_copy("i", ANN) == copy
        assert await tx.assets.find_copy("i", OTHER) is None
        assert await tx.assets.find_copy("another", ANN) is None
        await tx.assets.take_away([dataclasses.replace(copy, state=AssetState.HIDDEN, version=2)])
        assert await tx.assets.find_copy("i", ANN) is None
        await tx.assets.add(dataclasses.replace(copy, asset_id="c"))


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
        assert await tx.assets.has_rendition_at("thumb-b")
        assert not await tx.assets.has_rendition_at("thumb-")
        assert not await tx.assets.has_rendition_at("thumb_b")
        assert await tx.uploads.keys_among(["key-u1", "key-u3", "key-u4"]) == {"key-u1", "key-u3"}
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


async def test_an_import_has_one_asset_per_owner_and_key(asset_: Storage, clock: ManualClock) -> None:
    async with asset_.write() as tx:
        assert await tx.imports.find(ANN, "k") is None
        assert await tx.imports.take(ANN, "k") is None
        assert await tx.imports.describe(ANN, "k", "a", b"first") == "a"
        assert await tx.imports.describe(BOB, "k", "b", b"bob's") == "b"
        assert await tx.imports.describe(ANN, "k", "c", b"second") == "a"
    async with asset_.write() as tx:
        assert await tx.imports.find(ANN, "k") == "a"
        assert await tx.imports.find(OTHER, "k") is None
        assert await tx.imports.take(ANN, "k") == b"second"
        assert await tx.imports.take(ANN, "k") == b""
        assert await tx.imports.take(BOB, "k") == b"bob's"
    clock.advance(HOUR)
    async with asset_.write() as tx:
        assert await tx.imports.trim(HOUR + SECOND) == 0
        assert await tx.imports.trim(HOUR) == 2
        assert await tx.imports.trim(HOUR) == 0


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


async def test_events_are_told_with_the_commit(asset_: Storage, clock: ManualClock) -> None:
    with pytest.raises(KeyError):
        async with asset_.write() as tx:
            tx.events.add(EventKind.PUBLISHED, asset("lost", clock))
            raise KeyError
    async with asset_.write() as tx:
        tx.events.add(EventKind.PUBLISHED, asset("a", clock))
        tx.events.add(EventKind.REMOVED, asset("a", clock, version=2))
        tx.events.add(EventKind.PUBLISHED, asset("b", clock, owner=BOB))
    async with asset_.read() as tx:
        told = await tx.events.after(0, ANN, 9)
        assert [(event.position, event.asset_id, event.kind) for event in told] == [
            (1, "a", EventKind.PUBLISHED),
            (2, "a", EventKind.REMOVED),
        ]
        assert [event.position for event in await tx.events.after(1, ANN, 9)] == [2]
        assert len(await tx.events.after(0, ANN, 1)) == 1
        assert await tx.events.after(0, OTHER, 9) == []
        assert await tx.events.changed([(ANN, 1), (BOB, 0)]) == [(ANN, "a", 2), (BOB, "b", 1)]
        assert (await tx.events.place(ANN)).position == 2
    clock.advance(SECOND)
    async with asset_.write() as tx:
        assert await tx.events.trim(SECOND) == 0
        assert await tx.events.trim(SECOND / 2) == 3
        tx.events.add(EventKind.CHANGED, asset("b", clock, owner=BOB))
        await tx.events.write()
        assert [event.position for event in await tx.events.after(0, BOB, 9)] == [2]


async def test_the_database_answers(asset_: Storage) -> None:
    await asset_.ping()


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


async def test_uploads_of_clients_are_counted_and_prolonged(asset_: Storage, clock: ManualClock) -> None:
    mine = {"job_id": None, "deadline_at": clock.now() + SECOND}
    await put(
        asset_,
        upload("u1", **mine, filename="a.png", believed_type="image/png"),
        upload("u2", **mine, rendition=RenditionKind.CLIP),
        upload("u3", **mine, state=UploadState.DELETING),
        upload("u4", **mine, owner=BOB),
        upload("u5"),
    )
    async with asset_.write() as tx:
        assert await tx.uploads.count_open_of_client(ANN) == 1
        assert await tx.uploads.count_open_of_client(OTHER) == 0
        await tx.uploads.prolong("u1", clock.now() + HOUR)
        await tx.uploads.prolong("u5", clock.now())
    clock.advance(2 * SECOND)
    async with asset_.write() as tx:
        assert await tx.uploads.delete_overdue_later() == 2
        kept, of_job = await tx.uploads.find("u1"), await tx.uploads.find("u5")
    assert kept is not None
    assert of_job is not None
    assert (kept.state, kept.filename, kept.believed_type) == (UploadState.OPEN, "a.png", "image/png")
    assert of_job.deadline_at is None
