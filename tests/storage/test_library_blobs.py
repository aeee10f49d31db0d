"""The library's storage: blobs, that equal bytes share, and the copies that make them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest

from library_service.storage import Storage
from service_kit.blobs import BlobInfo
from service_kit.clock import ManualClock
from service_kit.database import Database
from service_kit.errors import Aborted
from tests.storage.library_rows import ANN, BOB, MINUTE, copying, item, keep, save


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
        assert await tx.blobs.users_of(used.place.key, limit=9) == ["i1"]
        assert await tx.blobs.users_of("stray", limit=9) == []
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
