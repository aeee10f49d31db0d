"""The asset service's storage: assets, how they are read, listed, changed and told of."""

from __future__ import annotations

import dataclasses

import pytest

from asset_service.domain import (
    AssetState,
    EventKind,
)
from asset_service.storage import Storage
from service_kit.clock import ManualClock
from tests.storage.asset_rows import ANN, BOB, HOUR, OTHER, SECOND, asset, put


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
