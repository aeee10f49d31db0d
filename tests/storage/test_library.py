"""The library's storage: items, marks, what is owed, events, the trash."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select

from library_service.domain import Item, Place, StoredFile
from library_service.domain.selection import Selection
from library_service.storage import DELETED, SAVED, Storage
from library_service.storage.outbox import Debt, DebtKind
from library_service.storage.saves import NewItem
from library_service.storage.tables import audit, saved_marks
from service_kit.clock import ManualClock
from service_kit.database import Database
from service_kit.errors import Aborted
from service_kit.identity import Caller, KeyKind
from tests.storage.both import snapshot
from tests.storage.library_rows import ANN, BOB, MINUTE, OTHER, caller, item, keep, listed, media, save


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
