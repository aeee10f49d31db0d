"""Sweeps of the library meet what is no blob, and find bytes that are no longer what was written."""

from __future__ import annotations

import pytest

from library_service import sweep as sweep_module
from service_kit.blobs import LIBRARY_BUCKET
from service_kit.sweeping import SweepKind, sweep_all
from tests.library_service.house import ADA, House, picture
from tests.library_service.test_clearing import items_of, job


async def test_a_torn_file_is_told_with_its_item_and_the_rest_is_swept(house: House) -> None:
    torn, lost = items_of(await house.library.saving.save(house.caller(ADA), await job(house, "red", "blue")))
    store, folder = house.library.store, house.settings.blobs_dir / LIBRARY_BUCKET
    stray = await store.put_bytes(LIBRARY_BUCKET, "default/ada/stray", b"stray", content_type="image/png")
    (folder / "a foreign one.blob").write_bytes(b"theirs")
    place = lost.files[0].place
    await store.delete(place.bucket, place.key, place.generation)
    torn_key = torn.files[0].place.key
    (folder / f"{torn_key}.blob/meta.json").write_bytes(b"{")
    found = {each.key: each for each in await sweep_all(house.library.sweep.page, dry_run=False)}
    assert {key: (each.kind, each.subject) for key, each in found.items()} == {
        stray.key: (SweepKind.BLOB_WITHOUT_ROW, ""),
        "a foreign one": (SweepKind.NOT_A_BLOB, ""),
        torn_key: (SweepKind.NOT_A_BLOB, f"item {torn.item_id}"),
        place.key: (SweepKind.ROW_WITHOUT_BLOB, f"item {lost.item_id}"),
    }
    assert await store.stat(LIBRARY_BUCKET, stray.key) is None


async def test_torn_files_keep_nobody_from_being_erased(house: House) -> None:
    items = items_of(await house.library.saving.save(house.caller(ADA), await job(house, "red", "blue")))
    folder = house.settings.blobs_dir / LIBRARY_BUCKET
    for item in items:
        (folder / f"{item.files[0].place.key}.blob/meta.json").write_bytes(b"{")
    assert await house.library.erasure.erase(ADA) == 0
    assert list(folder.rglob("*.blob")) == []


async def test_a_sweep_that_verifies_names_the_items_that_have_damaged_bytes(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The same bytes twice are one blob.
    assets = await house.make_job(ADA, [(picture("red"),), (picture("red"),), (picture("blue"),)])
    items = items_of(await house.library.saving.save(house.caller(ADA), assets))
    place = items[0].files[0].place
    data = house.settings.blobs_dir / LIBRARY_BUCKET / f"{place.key}.blob/data"
    whole = data.read_bytes()
    data.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    assert (await house.library.sweep.page(True, "")).findings == ()
    page = await house.library.sweep.page(True, "", verify=True)
    [found] = page.findings
    assert (found.kind, found.key) == (SweepKind.DAMAGED_BLOB, place.key)
    users = sorted(f"item {item.item_id}" for item in items[:2])
    assert found.subject == ", ".join(users)
    assert page.verified_bytes == sum(
        info.size_bytes for info in [info async for info in house.library.store.list(LIBRARY_BUCKET)]
    )
    monkeypatch.setattr(sweep_module, "_NAMED", 1)
    page = await house.library.sweep.page(True, "", verify=True)
    assert page.findings[0].subject == f"{users[0]} and more"
