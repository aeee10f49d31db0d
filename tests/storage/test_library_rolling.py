"""What the previous release does to the library's rows while this one runs beside it, or after a step back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from sqlalchemy import delete, func, select, update

from library_service.storage import Storage
from library_service.storage.tables import collection_items, item_files, item_tags, user_library
from service_kit.clock import ManualClock
from service_kit.database import Database, db_now
from tests.storage.library_rows import ANN, item
from tests.storage.test_library_search import save

DAY = timedelta(days=1)


async def test_what_the_previous_release_deletes_is_trimmed_with_its_labels(
    library: Storage, open_database: Callable[[str], Database], clock: ManualClock
) -> None:
    async with library.write() as tx:
        await save(tx, item("i1", clock), None)
        one = (await tx.shelves.lock(ANN, ["i1"]))["i1"]
        await tx.shelves.tag(one, add={"all": "all"}, remove=[])
        await tx.shelves.put_in(one, await tx.shelves.add_collection(ANN, "Shelf"))
    same = open_database("library")
    async with same.write() as connection:
        await connection.execute(update(user_library).values(deleted_at=db_now(), provenance=b""))
        await connection.execute(delete(item_files))
    clock.advance(DAY)
    async with library.write() as tx:
        assert await tx.items.trim_deleted(DAY) == 1
    async with same.read() as connection:
        for labels in (item_tags, collection_items):
            assert (await connection.execute(select(func.count()).select_from(labels))).scalar_one() == 0
