"""The library's storage."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from sqlalchemy import select

from library_service.domain import Copying, Item, Media, Place, StoredFile
from library_service.domain.selection import Selection, Sort
from library_service.storage import DELETED, SAVED, Storage, Transaction
from library_service.storage.outbox import Debt, DebtKind
from library_service.storage.saves import NewItem
from library_service.storage.tables import audit, saved_marks
from service_kit.blobs import BlobInfo
from service_kit.clock import ManualClock
from service_kit.database import Database
from service_kit.errors import Aborted
from service_kit.identity import Caller, KeyKind, Owner
from tests.storage.both import snapshot

ANN, BOB, OTHER = Owner("t", "ann"), Owner("t", "bob"), Owner("u", "ann")
MINUTE = timedelta(minutes=1)


def media(sha256: str = "00", content_type: str = "image/png") -> Media:
    return Media(content_type, 2**40, sha256, 640, 480, 0)


def copying(blob_id: str, sha256: str = "00") -> Copying:
    source = StoredFile("", media(sha256), Place("workspace", f"source-{blob_id}", "1"))
    return Copying(blob_id, "library", f"key-{blob_id}", source)


def item(item_id: str, clock: ManualClock, *, owner: Owner = ANN, asset_id: str = "", format: str = "image") -> Item:
    files = (StoredFile("", media(), Place("", "", "")),)
    return Item(item_id, owner, asset_id or f"of-{item_id}", format, b"\0prov", files, clock.now(), None, 1)


async def keep(tx: Transaction, blob_id: str, owner: Owner = ANN, sha256: str = "00") -> str:
    """Copy and publish bytes. Returns the blob that holds them."""
    await tx.blobs.announce(owner, [copying(blob_id, sha256)], writes_for=MINUTE)
    [used] = await tx.blobs.publish(owner, [(copying(blob_id, sha256), "g1")])
    return used


def caller(owner: Owner) -> Caller:
    """Return somebody who saves."""
    return Caller(owner, owner, KeyKind.USER, frozenset(), "k", datetime.max)


async def save(library: Storage, one: Item) -> None:
    async with library.write() as tx:
        blob_ids = [await keep(tx, f"blob-{one.item_id}", one.owner, one.item_id)]
        await tx.saves.add(caller(one.owner), [NewItem(one, blob_ids, None)])


async def listed(tx: Transaction, owner: Owner) -> list[str]:
    """Return the ids of an owner's newest items."""
    found = await tx.search.page(owner, Selection(), sort=Sort.NEWEST, after=None, limit=9)
    return [one.item_id for one in found]


async def test_an_item_comes_back_as_it_was_and_only_for_its_owner(library: Storage, clock: ManualClock) -> None:
    mine = item("i1", clock)
    thumb = StoredFile("thumb_256", media(), Place("", "", ""))
    async with library.write() as tx:
        first, second = await keep(tx, "b1", sha256="01"), await keep(tx, "b2", sha256="02")
        whole = Item(**{**snapshot(mine), "files": (*mine.files, thumb)})
        await tx.saves.add(caller(ANN), [NewItem(whole, [first, second], None)])
    async with library.read() as tx:
        found = await tx.items.find(ANN, "i1")
        assert found is not None
        assert snapshot(found) | {"files": ()} == snapshot(mine) | {"files": ()}
        assert [(file.rendition, file.media, file.place) for file in found.files] == [
            ("", media("01"), Place("library", "key-b1", "g1")),
            ("thumb_256", media("02"), Place("library", "key-b2", "g1")),
        ]
        assert await tx.saves.find(ANN, ["of-i1", "unknown"]) == {"of-i1": found}
        assert await tx.saves.find_items(ANN, ["i1", "unknown"]) == {"i1": found}
        for owner in (BOB, OTHER):
            assert await tx.items.find(owner, "i1") is None
            assert await tx.saves.find(owner, ["of-i1"]) == {}
            assert await tx.saves.find_items(owner, ["i1"]) == {}
            assert not await tx.search.has_any(owner, Selection())
        assert await tx.search.has_any(ANN, Selection())
        assert not await tx.search.has_any(ANN, Selection(in_trash=True))


async def test_an_asset_is_saved_once_until_its_item_is_deleted(library: Storage, clock: ManualClock) -> None:
    await save(library, item("i1", clock, asset_id="a"))
    with pytest.raises(Aborted):
        await save(library, item("i2", clock, asset_id="a"))
    await save(library, item("i3", clock, owner=BOB, asset_id="a"))
    async with library.write() as tx:
        assert await tx.items.bury(BOB, "i1") is None
        assert await tx.items.bury(ANN, "i1") == ["blob-i1"]
        assert await tx.items.bury(ANN, "i1") is None
        tombstone = await tx.items.find(ANN, "i1")
        assert tombstone is not None
        assert (tombstone.deleted_at, tombstone.version, tombstone.provenance) == (clock.now(), 2, b"")
        assert tombstone.files == ()
        assert await tx.saves.find(ANN, ["a"]) == {}
        assert await listed(tx, ANN) == []
    await save(library, item("i4", clock, asset_id="a"))
    async with library.write() as tx:
        assert await tx.items.trim_deleted(MINUTE) == 0
        clock.advance(MINUTE)
        assert await tx.items.trim_deleted(MINUTE) == 1
        assert await tx.items.find(ANN, "i1") is None
        assert await tx.items.find(ANN, "i4") is not None


async def test_marks_count_up_per_asset(library: Storage) -> None:
    async with library.write() as tx:
        assert [await tx.items.mark(ANN, "a", item_id) for item_id in ("i1", "", "i2")] == [1, 2, 3]
        assert await tx.items.mark(BOB, "a", "i9") == 1
        rows = (await tx._connection.execute(select(saved_marks).order_by(saved_marks.c.owner_id))).all()
    assert [(row.owner_id, row.item_id, row.version) for row in rows] == [("ann", "i2", 3), ("bob", "i9", 1)]


async def test_a_note_says_who_did_what(library: Storage, clock: ManualClock) -> None:
    caller = Caller(ANN, ANN, KeyKind.USER, frozenset(), "k1", clock.now())
    async with library.write() as tx:
        await tx.items.note(caller, "item_saved", "i1")
        row = (await tx._connection.execute(select(audit))).one()
        assert await tx.items.trim_audit(MINUTE) == 0
        clock.advance(MINUTE)
        assert await tx.items.trim_audit(MINUTE) == 1
    assert (row.at, row.actor_key_id, row.owner_id) == (clock.now() - MINUTE, "k1", "ann")
    assert (row.action, row.subject_id) == ("item_saved", "i1")


async def test_equal_bytes_of_one_owner_are_one_blob(library: Storage) -> None:
    async with library.write() as tx:
        assert await keep(tx, "b1") == "b1"
        assert await keep(tx, "b2") == "b1"
        assert await keep(tx, "b3", owner=BOB) == "b3"
        assert [doomed.blob_id for doomed in await tx.blobs.find_doomed(after="", limit=9)] == ["b2"]
        await tx.blobs.release(["b1"])
        assert len(await tx.blobs.find_doomed(after="", limit=9)) == 1
        await tx.blobs.release(["b1", "b3"])
        doomed = await tx.blobs.find_doomed(after="", limit=9)
        assert [(each.blob_id, each.bucket, each.key, each.may_be_written) for each in doomed] == [
            (blob_id, "library", f"key-{blob_id}", False) for blob_id in ("b1", "b2", "b3")
        ]
        assert [each.blob_id for each in await tx.blobs.find_doomed(after="b1", limit=1)] == ["b2"]
        for blob_id in ("b1", "b2", "b3"):
            await tx.blobs.forget(blob_id)
        assert await tx.blobs.find_doomed(after="", limit=9) == []


async def test_who_publishes_equal_bytes_at_once_shares_one_blob(open_database: Callable[[str], Database]) -> None:
    """On two connections, as two replicas have them: whoever is second waits, and finds the twin."""
    stores = [Storage(open_database("library")) for _ in range(2)]
    async with stores[0].write() as tx:
        await tx.blobs.announce(ANN, [copying("b0"), copying("b1")], writes_for=MINUTE)
        await keep(tx, "twin")

    async def publish(number: int) -> str:
        async with stores[number].write() as tx:
            await tx.blobs.lock_for(ANN, [copying(f"b{number}")])
            [used] = await tx.blobs.publish(ANN, [(copying(f"b{number}"), "g")])
            return used

    assert set(await asyncio.gather(publish(0), publish(1))) == {"twin"}
    async with stores[0].write() as tx:
        await tx.blobs.release(["twin"] * 2)
        assert [each.blob_id for each in await tx.blobs.find_doomed(after="", limit=9)] == ["b0", "b1"]
        await tx.blobs.release(["twin"])
        assert len(await tx.blobs.find_doomed(after="", limit=9)) == 3


async def test_files_with_the_same_bytes_are_published_together_as_one_blob(library: Storage) -> None:
    async with library.write() as tx:
        await keep(tx, "twin", sha256="01")
        copies = [copying(f"b{n}", sha256) for n, sha256 in enumerate(("01", "02", "02", "03"))]
        await tx.blobs.announce(ANN, copies, writes_for=MINUTE)
        await tx.blobs.lock_for(ANN, copies)
        used = await tx.blobs.publish(ANN, [(copy, "g") for copy in copies])
        assert used == ["twin", "b1", "b1", "b3"]
        assert [each.blob_id for each in await tx.blobs.find_doomed(after="", limit=9)] == ["b0", "b2"]
        live = await tx.blobs.find_live(after="", limit=9)
        assert [(each.blob_id, each.ref_count, each.uses) for each in live] == [
            ("b1", 2, 0),
            ("b3", 1, 0),
            ("twin", 2, 0),
        ]
    with pytest.raises(Aborted):
        async with library.write() as tx:
            await tx.blobs.publish(ANN, [(copying("b3", "04"), "g")])


async def test_a_sweep_counts_uses_again_and_gives_strays_a_row(library: Storage, clock: ManualClock) -> None:
    await save(library, item("i1", clock))
    stray = BlobInfo("library", "stray", "g7", 5, "ab", "image/png", clock.now())
    async with library.write() as tx:
        await keep(tx, "unused", sha256="77")
        [used, unused] = await tx.blobs.find_live(after="", limit=9)
        assert (used.blob_id, used.uses, used.item_id) == ("blob-i1", 1, "i1")
        assert (unused.blob_id, unused.uses, unused.item_id) == ("unused", 0, "")
        assert await tx.blobs.find_live(after="unused", limit=9) == []
        assert not await tx.blobs.recount("blob-i1")
        assert not await tx.blobs.recount("unknown")
        assert await tx.blobs.recount("unused")
        await tx.blobs.take_stray("s", BOB, stray)
        assert await tx.blobs.known_keys(["stray", "key-unused", "unknown"]) == {"stray", "key-unused"}
        assert [each.blob_id for each in await tx.blobs.find_doomed(after="", limit=9)] == ["s", "unused"]
        assert await tx.erased.count_rows(BOB) == 1


async def test_an_owner_gives_up_every_blob_and_every_debt(library: Storage, clock: ManualClock) -> None:
    await save(library, item("i1", clock))
    await save(library, item("i2", clock, owner=BOB))
    async with library.write() as tx:
        await tx.blobs.announce(ANN, [copying("b1")], writes_for=MINUTE)
        for owner in (ANN, BOB):
            await tx.saves.mark(owner, {"a": "i"})
        await tx.erased.delete_rows(ANN, keep={"blobs"})
        await tx.outbox.forget_owner(ANN)
        assert await tx.blobs.give_up_owner(ANN, limit=1) == await tx.blobs.give_up_owner(ANN, limit=9) == 1
        doomed = await tx.blobs.find_doomed(after="", limit=9)
        assert [(each.blob_id, each.may_be_written) for each in doomed] == [("b1", True), ("blob-i1", False)]
        assert [debt.payload["owner_id"] for debt in await tx.outbox.claim_due(limit=9, claim=MINUTE)] == ["bob"]
        assert await tx.erased.count_rows(ANN) == 2


async def test_marks_of_many_carry_versions_and_are_owed(library: Storage) -> None:
    async with library.write() as tx:
        await tx.saves.mark(ANN, {"b": "i2", "a": "i1"})
        await tx.saves.mark(ANN, {"a": "i3"})
        owed = [debt.payload for debt in await tx.outbox.claim_due(limit=9, claim=MINUTE)]
        assert sorted((mark["asset_id"], mark["item_id"], mark["version"]) for mark in owed) == [
            ("a", "i1", 1),
            ("a", "i3", 2),
            ("b", "i2", 1),
        ]


async def test_the_call_of_a_key_is_remembered_for_a_while(library: Storage, clock: ManualClock) -> None:
    async with library.write() as tx:
        await tx.saves.answer(ANN, "k", {"a": "i1", "b": "i2"})
        await tx.saves.answer(ANN, "k", {"a": "i9"})
        await tx.saves.answer(ANN, "k", {})
        assert await tx.saves.answered(ANN, "k", ["a", "b", "c"]) == {"a": "i1", "b": "i2"}
        assert await tx.saves.answered(ANN, "other", ["a"]) == {}
        assert await tx.saves.answered(BOB, "k", ["a"]) == {}
        clock.advance(MINUTE)
        assert await tx.saves.trim_answers(2 * MINUTE) == 0
        assert await tx.saves.trim_answers(MINUTE) == 2


async def test_a_blob_that_is_used_is_never_forgotten(library: Storage) -> None:
    async with library.write() as tx:
        await keep(tx, "b1")
        await tx.blobs.forget("b1")
        assert await keep(tx, "b2") == "b1"


async def test_a_copy_that_nobody_goes_on_with_is_given_up(library: Storage, clock: ManualClock) -> None:
    async with library.write() as tx:
        await tx.blobs.announce(ANN, [copying("b1"), copying("b2", "02")], writes_for=MINUTE)
    clock.advance(MINUTE - timedelta(seconds=1))
    async with library.write() as tx:
        assert await tx.blobs.give_up_overdue(linger=MINUTE) == 0
        await tx.blobs.go_on(["b2", "unknown"], writes_for=MINUTE)
    clock.advance(timedelta(seconds=1))
    async with library.write() as tx:
        assert await tx.blobs.give_up_overdue(linger=MINUTE) == 1
        [doomed] = await tx.blobs.find_doomed(after="", limit=9)
        assert (doomed.blob_id, doomed.may_be_written) == ("b1", True)
    with pytest.raises(Aborted):
        async with library.write() as tx:
            await tx.blobs.publish(ANN, [(copying("b1"), "g")])
    clock.advance(MINUTE)
    async with library.write() as tx:
        assert not (await tx.blobs.find_doomed(after="", limit=9))[0].may_be_written
        await tx.blobs.go_on(["b1"], writes_for=MINUTE)
        assert not (await tx.blobs.find_doomed(after="", limit=9))[0].may_be_written


async def test_copies_are_given_up_by_name_or_all(library: Storage) -> None:
    async with library.write() as tx:
        await keep(tx, "live", sha256="99")
        await tx.blobs.announce(ANN, [copying(f"b{n}", f"0{n}") for n in range(3)], writes_for=MINUTE)
        assert await tx.blobs.give_up(["b0", "live", "unknown"]) == {"b0", "live"}
        assert [(each.blob_id, each.may_be_written) for each in await tx.blobs.find_doomed(after="", limit=9)] == [
            ("b0", False)
        ]
        assert await tx.blobs.give_up_all() == 2
        assert await tx.blobs.give_up_all() == 0
        assert [each.blob_id for each in await tx.blobs.find_doomed(after="", limit=9)] == ["b0", "b1", "b2"]


async def test_what_is_owed_is_claimed_in_order_until_it_is_settled(library: Storage, clock: ManualClock) -> None:
    async with library.write() as tx:
        await tx.outbox.owe_mark(ANN, asset_id="a", item_id="i", version=2**40)
    clock.advance(timedelta(seconds=1))
    async with library.write() as tx:
        await tx.outbox.owe_release("holder")
        [mark] = await tx.outbox.claim_due(limit=1, claim=MINUTE)
        what = {"tenant_id": "t", "owner_id": "ann", "asset_id": "a", "item_id": "i", "version": 2**40}
        assert mark == Debt(mark.id, DebtKind.MARK_SAVED, what, 0)
        [release] = await tx.outbox.claim_due(limit=9, claim=MINUTE)
        assert (release.kind, release.payload) == (DebtKind.RELEASE_HOLD, {"holder": "holder"})
        assert await tx.outbox.claim_due(limit=9, claim=MINUTE) == []
        await tx.outbox.settle([release.id])
        await tx.outbox.unclaim([mark.id, release.id, "unknown"])
        assert await tx.outbox.claim_due(limit=9, claim=MINUTE) == [mark]
        await tx.outbox.postpone([mark.id], wait=2 * MINUTE)
    clock.advance(MINUTE)
    async with library.write() as tx:
        assert await tx.outbox.claim_due(limit=9, claim=MINUTE) == []
        await tx.outbox.unclaim_all()
        assert [(debt.id, debt.attempts) for debt in await tx.outbox.claim_due(limit=9, claim=MINUTE)] == [(mark.id, 1)]
    clock.advance(MINUTE)
    async with library.write() as tx:
        # Whoever claimed it died: it is due again.
        assert len(await tx.outbox.claim_due(limit=9, claim=MINUTE)) == 1


async def test_two_that_claim_at_once_never_get_the_same_and_do_not_wait(
    open_database: Callable[[str], Database], backend: str
) -> None:
    if backend == "sqlite":
        pytest.skip("there is one writer")
    one, two = Storage(open_database("library")), Storage(open_database("library"))
    async with one.write() as tx:
        for number in range(3):
            await tx.outbox.owe_release(f"h{number}")
    async with one.write() as first, two.write() as second:
        mine = await first.outbox.claim_due(limit=2, claim=MINUTE)
        others = await second.outbox.claim_due(limit=9, claim=MINUTE)
    assert [[debt.payload["holder"] for debt in each] for each in (mine, others)] == [["h0", "h1"], ["h2"]]


async def test_events_are_told_with_the_commit(library: Storage, clock: ManualClock) -> None:
    one = item("i1", clock)
    with pytest.raises(KeyError):
        async with library.write() as tx:
            tx.tell(one, SAVED)
            raise KeyError
    async with library.write() as tx:
        tx.tell(one, SAVED)
        tx.tell(one, DELETED)
        tx.tell(item("i2", clock, owner=BOB), SAVED)
        assert await tx.now() == clock.now()
    async with library.read() as tx:
        told = await tx.events_after(0, ANN, limit=9)
        assert [(event.position, event.subject_id, event.kind) for event in told] == [
            (1, "i1", SAVED),
            (2, "i1", DELETED),
        ]
        assert [event.position for event in await tx.events_after(0, ANN, limit=1)] == [1]
        assert await tx.changed([(ANN, 1), (BOB, 1)]) == [(ANN, "i1", 2)]
        assert (await tx.place(ANN)).position == 2
        assert (await tx.place(OTHER)).position == 0
    clock.advance(MINUTE)
    async with library.write() as tx:
        assert await tx.trim_events(older_than=MINUTE) == 0
        assert await tx.trim_events(older_than=MINUTE / 2) == 3
    async with library.read() as tx:
        assert await tx.events_after(0, ANN, limit=9) == []


async def test_the_database_answers(library: Storage) -> None:
    await library.ping()


async def test_the_trash_holds_items_until_they_are_restored_or_buried(library: Storage, clock: ManualClock) -> None:
    for item_id in ("i1", "i2"):
        await save(library, item(item_id, clock))
    async with library.write() as tx:
        assert not await tx.items.restore(ANN, "i1")
        assert not await tx.items.trash(BOB, "i1")
        assert [await tx.items.trash(ANN, "i1") for _ in range(2)] == [True, False]
        trashed = (await tx.saves.find(ANN, ["of-i1"])).get("of-i1")
        assert trashed is not None
        assert (trashed.item_id, trashed.trashed_at, trashed.version) == ("i1", clock.now(), 2)
        assert await listed(tx, ANN) == ["i2"]
        assert not await tx.items.restore(BOB, "i1")
        assert not await tx.items.restore(ANN, "i1", trashed_by=clock.now() - MINUTE)
        assert await tx.items.restore(ANN, "i1", trashed_by=clock.now())
        assert await tx.items.trash(ANN, "i1")
        assert await tx.items.find_overdue(trashed_for=MINUTE, limit=9) == []
        assert await tx.items.bury(ANN, "i1", trashed_for=MINUTE) is None
        clock.advance(MINUTE)
        assert await tx.items.find_overdue(trashed_for=MINUTE, limit=9) == [(ANN, "i1")]
        assert await tx.items.bury(ANN, "i2", trashed_for=MINUTE) is None
        assert await tx.items.bury(ANN, "i1", trashed_for=MINUTE) == ["blob-i1"]
        assert await tx.items.find_overdue(trashed_for=MINUTE, limit=9) == []
        assert not await tx.items.restore(ANN, "i1")
        await tx.items.note_expiry(ANN, "item_expired", "i1")
        row = (await tx._connection.execute(select(audit).where(audit.c.action == "item_expired"))).one()
    assert (row.actor_key_id, row.action, row.subject_id) == ("", "item_expired", "i1")


async def test_late_items_are_claimed_given_files_and_forgotten(library: Storage, clock: ManualClock) -> None:
    await save(library, item("i1", clock))
    async with library.write() as tx:
        await tx.late_items.add(ANN, {"i1": "of-i1"}, wait=MINUTE)
        await tx.late_items.add(ANN, {"i1": "of-i1"}, wait=MINUTE)
        await tx.late_items.add(ANN, {}, wait=MINUTE)
        assert await tx.late_items.claim(limit=5, claim=MINUTE) == []
    clock.advance(MINUTE)
    async with library.write() as tx:
        [late] = await tx.late_items.claim(limit=5, claim=MINUTE)
        assert (late.item_id, late.owner, late.asset_id, late.attempts) == ("i1", ANN, "of-i1", 1)
        assert await tx.late_items.claim(limit=5, claim=MINUTE) == []
        assert await tx.late_items.lock(late) == {""}
        assert await tx.late_items.renditions_of(["i1", "i9"]) == {"i1": {""}}
        assert await tx.late_items.lock(replace(late, owner=BOB)) is None
        blob_id = await keep(tx, "thumb", ANN, "11")
        thumb = StoredFile("thumb_256", media("11", "image/webp"), Place("library", "key-thumb", "g1"))
        await tx.late_items.add_files(late, [(thumb, blob_id)])
    async with library.write() as tx:
        assert await tx.late_items.lock(late) == {"", "thumb_256"}
        found = await tx.items.find(ANN, "i1")
        assert found is not None
        assert ([file.rendition for file in found.files], found.version) == (["", "thumb_256"], 2)
        await tx.late_items.postpone(["i1"], wait=2 * MINUTE)
    clock.advance(2 * MINUTE)
    async with library.write() as tx:
        assert [late.attempts for late in await tx.late_items.claim(limit=5, claim=MINUTE)] == [2]
        await tx.late_items.end(["i1"])
    clock.advance(MINUTE)
    async with library.write() as tx:
        assert await tx.late_items.claim(limit=5, claim=MINUTE) == []
