"""The kit's event log, as the library keeps it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from library_service.storage.tables import event_log
from service_kit.clock import ManualClock
from service_kit.database import Database
from service_kit.events.log import NewEvent
from service_kit.identity import Owner

ANN, BOB, NOBODY = Owner("t", "ann"), Owner("t", "bob"), Owner("other", "ann")


def event(owner: Owner, subject_id: str, version: int = 1) -> NewEvent:
    return NewEvent(owner, subject_id, version, "state", b"\0payload")


async def test_events_are_numbered_per_owner_and_come_back_in_order(
    open_database: Callable[[str], Database], clock: ManualClock
) -> None:
    db = open_database("library")
    async with db.write() as tx:
        await event_log.write(tx, [event(ANN, "a"), event(BOB, "b"), event(ANN, "c")])
    async with db.write() as tx:
        await event_log.write(tx, [event(ANN, "a", 2)])
        await event_log.write(tx, [])
    async with db.read() as tx:
        mine = await event_log.after(tx, 0, owner=ANN)
        assert [(told.position, told.subject_id, told.version) for told in mine] == [
            (1, "a", 1),
            (2, "c", 1),
            (3, "a", 2),
        ]
        assert {(told.owner, told.kind, told.payload, told.created_at) for told in mine} == {
            (ANN, "state", b"\0payload", clock.now())
        }
        assert [told.position for told in await event_log.after(tx, 1, owner=ANN)] == [2, 3]
        assert [told.position for told in await event_log.after(tx, 0, owner=ANN, limit=2)] == [1, 2]
        assert [told.position for told in await event_log.after(tx, 0, owner=ANN, subject_id="a")] == [1, 3]
        assert [told.position for told in await event_log.after(tx, 0, owner=BOB)] == [1]
        assert await event_log.after(tx, 0, owner=NOBODY) == []


async def test_events_of_several_subjects_come_together(open_database: Callable[[str], Database]) -> None:
    db = open_database("library")
    async with db.write() as tx:
        await event_log.write(tx, [event(BOB, "b"), event(ANN, "a"), event(ANN, "c"), event(ANN, "a", 2)])
    async with db.read() as tx:
        asked = [(ANN, "a", 1), (BOB, "b", 0), (BOB, "a", 0), (NOBODY, "a", 0), (ANN, "c", 2)]
        payload = b"\0payload"
        assert await event_log.of_subjects(tx, asked, limit=5) == [(BOB, "b", 1, payload), (ANN, "a", 3, payload)]
        assert await event_log.of_subjects(tx, asked, limit=1) == [(BOB, "b", 1, payload)]
        assert await event_log.of_subjects(tx, [], limit=5) == []


async def test_it_tells_whose_events_came_later(open_database: Callable[[str], Database]) -> None:
    db = open_database("library")
    async with db.write() as tx:
        await event_log.write(tx, [event(BOB, "b"), event(ANN, "a"), event(ANN, "c"), event(ANN, "a", 2)])
    async with db.read() as tx:
        assert await event_log.changed(tx, [(BOB, 0), (ANN, 1)]) == [(ANN, "c", 2), (ANN, "a", 3), (BOB, "b", 1)]
        assert await event_log.changed(tx, [(BOB, 1), (NOBODY, 0)]) == []
        assert await event_log.changed(tx, []) == []


async def test_a_place_knows_cursors_and_what_was_trimmed(
    open_database: Callable[[str], Database], clock: ManualClock
) -> None:
    db = open_database("library")
    for subject in "abc":
        async with db.write() as tx:
            await event_log.write(tx, [event(ANN, subject), event(BOB, subject)])
        clock.advance(timedelta(seconds=1))
    async with db.read() as tx:
        before, bobs, nobody = [await event_log.place(tx, owner) for owner in (ANN, BOB, NOBODY)]
    assert (before.position, before.trimmed_to, nobody.position, nobody.trimmed_to) == (3, 0, 0, 0)
    assert before.after(before.cursor) == 3
    assert before.after(bobs.cursor) is None
    async with db.write() as tx:
        assert await event_log.trim(tx, older_than=timedelta(seconds=2)) == 2
        assert await event_log.trim(tx, older_than=timedelta(seconds=2)) == 0
    async with db.read() as tx:
        after = await event_log.place(tx, ANN)
        assert (after.epoch, after.position, after.trimmed_to) == (before.epoch, 3, 1)
        assert [told.position for told in await event_log.after(tx, 0, owner=ANN)] == [2, 3]
    async with db.write() as tx:
        assert await event_log.trim(tx, older_than=timedelta(0)) == 4
        await event_log.write(tx, [event(ANN, "d")])
        assert [told.position for told in await event_log.after(tx, 0, owner=ANN)] == [4]
