"""What the library does by itself, without anybody asking."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sqlalchemy import update

from library_service import shelving
from library_service.domain.words import tokens_of
from library_service.storage.blob_rows import BlobRows
from library_service.storage.tables import user_library
from service_kit import channels
from service_kit.blobs import LIBRARY_BUCKET
from tests.library_service.house import ADA, House, picture


async def test_what_is_owed_is_paid_by_itself(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    paid = asyncio.Event()

    async def release(holder: str) -> None:
        if holder == "save:x":
            paid.set()

    monkeypatch.setattr(house.library.deliveries._assets, "release_hold", release)
    async with house.library.storage.write() as tx:
        await tx.outbox.owe_release("save:x")

    async with asyncio.timeout(10):
        await paid.wait()


async def test_what_the_last_run_left_is_swept_at_the_start(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    swept, forget = asyncio.Event(), BlobRows.forget

    async def tell(rows: BlobRows, blob_id: str) -> None:
        await forget(rows, blob_id)
        swept.set()

    [asset_id] = await house.make_job(ADA, [(picture("red"),)])
    copier = house.library.copier
    held = await copier.hold("save:x", ADA, [asset_id])
    copies = await copier.announce(ADA, held.values())
    await copier.copy("save:x", ADA, copies)
    assert len(await house.keys_in(LIBRARY_BUCKET)) == 1

    monkeypatch.setattr(BlobRows, "forget", tell)
    await house.restart_library()

    async with asyncio.timeout(10):
        await swept.wait()
    assert await house.keys_in(LIBRARY_BUCKET) == []


async def test_health_tells_what_depends_on_what(house: House) -> None:
    await house.library_sees_assets(True)
    async with channels.connect(house.library.server.target) as channel:
        health: health_pb2_grpc.HealthStub = health_pb2_grpc.HealthStub(channel)
        listed = (await health.List(health_pb2.HealthListRequest())).statuses  # type: ignore[attr-defined]

    assert {name: status.status for name, status in listed.items()} == dict.fromkeys(
        (
            "",
            "atelier.library.v1.LibraryService",
            "dependency/database",
            "dependency/blob_store",
            "dependency/asset_service",
        ),
        health_pb2.HealthCheckResponse.SERVING,
    )


async def test_without_its_blobs_it_does_not_serve(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def stat(bucket: str, key: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(house.library.store, "stat", stat)
    await house.library.vitals.look()
    assert not house.library.health.serving

    monkeypatch.undo()
    await house.library.vitals.look()
    assert house.library.health.serving


async def test_words_are_made_off_the_loop_and_in_no_transaction(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    made_by: list[threading.Thread] = []

    def noted(*arguments: Any) -> str:
        made_by.append(threading.current_thread())
        return tokens_of(*arguments)

    [asset_id] = await house.make_job(ADA, [(picture("red"),)])
    async with house.as_(ADA) as ada:
        await ada.save(asset_id)
        async with house.library.storage.write() as tx:
            await tx._connection.execute(update(user_library).values(words="", words_version=0))
        assert not (await ada.items(query="lighthouse")).items
        monkeypatch.setattr(shelving, "tokens_of", noted)
        # Whoever comes first reads it: we, or the loop that runs beside us.
        async with asyncio.timeout(20):
            while not (await ada.items(query="lighthouse")).items:
                await house.library.shelving.read_unread()
    assert made_by
    assert threading.main_thread() not in made_by
