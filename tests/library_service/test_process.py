"""The library as a process of its own: killed between any two steps, started wrongly, and its schema."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from atelier.asset.v1 import asset_service_pb2
from atelier.library.v1 import library_service_pb2 as pb
from library_service.storage import MIGRATIONS
from library_service.storage.tables import metadata
from service_kit import channels
from service_kit.blobs import LIBRARY_BUCKET
from service_kit.database import Database
from service_kit.errors import ErrorReason, FailedPrecondition
from service_kit.identity import KeyKind
from service_kit.migrate import schema_differences
from tests.library_service.house import ADA, Desk, House, picture

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
async def house_of_today(tmp_path: Path) -> AsyncIterator[House]:
    """Give a house on the time of day, since a process of its own has no other clock."""
    async with AsyncExitStack() as stack:
        house = House(tmp_path, stack, start=datetime.now(UTC))
        await house.start()
        yield house


async def start_process(house: House, **environment: str) -> tuple[asyncio.subprocess.Process, str]:
    """Start the library as a process on the data of a house. Returns it, and its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{probe.getsockname()[1]}"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "library_service",
        cwd=house.folder,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "ATELIER_DATA_DIR": str(house.folder),
            "ATELIER_LIBRARY_LISTEN": target,
            "ATELIER_LIBRARY_ASSET_TARGET": house.settings.library.asset_target,
            "ATELIER_LIBRARY_IDENTITY_TARGET": house.settings.library.identity_target,
            **environment,
        },
        stderr=asyncio.subprocess.PIPE,
    )
    return process, target


@pytest.mark.parametrize(
    ("point", "kept"),
    [
        ("library.save.held", 0),
        ("library.save.copying", 0),
        ("library.save.copied", 0),
        ("library.save.committed", 1),
        ("library.delete.committed", 0),
    ],
)
async def test_a_library_that_is_killed_leaves_all_or_nothing(house_of_today: House, point: str, kept: int) -> None:
    house = house_of_today
    [asset_id] = await house.make_job(ADA, [(picture("red"), picture("red", format="WEBP"))])
    await house.stop_library()
    process, target = await start_process(house, ATELIER_CRASH_POINT=point)
    async with house.as_(ADA, library_target=target) as ada:
        async with channels.connect(target) as channel:
            await channels.wait_ready(channel, timedelta(seconds=20))
        with pytest.raises(grpc.aio.AioRpcError):
            [saved] = await ada.save(asset_id)
            await ada.library.DeleteItem(pb.DeleteItemRequest(item_id=saved.item.item_id, permanently=True))
    _, errors = await process.communicate()
    assert process.returncode == -9, errors.decode()

    # The clock of the house stood still while the process wrote times of its own.
    house.clock.advance(timedelta(minutes=1))
    await house.start_library()
    await house.library.removal.sweep()
    await house.library.deliveries.deliver_due()
    async with house.as_(ADA) as ada:
        items = (await ada.items()).items
        assert len(items) == kept
        assert len(await house.keys_in(LIBRARY_BUCKET)) == 2 * kept
        assert await ada.saved_as(asset_id) == (items[0].item_id if kept else "")
        [again] = await ada.save(asset_id)
        assert again.HasField("item")
        assert len((await ada.items()).items) == 1


@pytest.mark.parametrize("step", ["saved", "removed"])
async def test_a_library_that_is_killed_while_it_clears_goes_on(house_of_today: House, step: str) -> None:
    house = house_of_today
    request = pb.ClearAssetsRequest(asset_ids=await house.make_job(ADA, [(picture("red"),)]))
    await killed(house, f"library.clear.{step}", lambda desk: desk.library.ClearAssets(request))
    await house.start_library()
    async with house.as_(ADA) as ada:
        [item] = (await ada.items()).items
        [result] = (await ada.library.ClearAssets(request)).results
        assert result.item.item_id == item.item_id
        assert list((await ada.workspace.ListAssets(asset_service_pb2.ListAssetsRequest())).assets) == []


async def test_a_library_that_is_killed_while_it_erases_or_sweeps_goes_on(house_of_today: House) -> None:
    house = house_of_today
    [asset_id] = await house.make_job(ADA, [(picture("red"),)])
    async with house.as_(ADA) as ada:
        await ada.save(asset_id)
    stray = await house.library.store.put_bytes(LIBRARY_BUCKET, "default/bob/stray", b"x", content_type="image/png")
    await killed(house, "library.sweep.committed", lambda desk: desk.library.SweepBlobs(pb.SweepBlobsRequest()))
    await house.start_library()
    await house.library.removal.sweep()
    assert await house.library.store.stat(LIBRARY_BUCKET, stray.key) is None

    erase = pb.EraseOwnerRequest(owner_id=ADA.owner_id)
    await killed(house, "library.erase.marked", lambda desk: desk.library.EraseOwner(erase))
    await house.start_library()
    with pytest.raises(FailedPrecondition) as late:
        await house.library.shelving.create_collection(ADA, "Late")
    assert late.value.reason is ErrorReason.OWNER_ERASED
    assert await house.library.erasure.erase(ADA) == 0
    assert await house.keys_in(LIBRARY_BUCKET) == []


async def killed(house: House, point: str, deed: Callable[[Desk], Awaitable[object]]) -> None:
    """Have a library of its own process die at a point while it does something."""
    await house.stop_library()
    process, target = await start_process(house, ATELIER_CRASH_POINT=point)
    async with house.as_(ADA, library_target=target, kind=KeyKind.ADMIN) as desk:
        async with channels.connect(target) as channel:
            await channels.wait_ready(channel, timedelta(seconds=20))
        with pytest.raises(grpc.aio.AioRpcError):
            await deed(desk)
    _, errors = await process.communicate()
    assert process.returncode == -9, errors.decode()
    # The clock of the house stood still while the process wrote times of its own.
    house.clock.advance(timedelta(minutes=1))


async def test_it_ends_when_asked_and_serves_what_it_kept(house_of_today: House) -> None:
    house = house_of_today
    [asset_id] = await house.make_job(ADA, [(picture("red"),)])
    await house.stop_library()
    process, target = await start_process(house)
    async with house.as_(ADA, library_target=target) as ada:
        async with channels.connect(target) as channel:
            await channels.wait_ready(channel, timedelta(seconds=20))
        [saved] = await ada.save(asset_id)
    process.terminate()
    _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()

    await house.start_library()
    async with house.as_(ADA) as ada:
        assert [item.item_id for item in (await ada.items()).items] == [saved.item.item_id]


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"ATELIER_LIBRARY_LISTEM": "x"}, "Did you mean ATELIER_LIBRARY_LISTEN?"),
        ({"ATELIER_LOG_LEVEL": "loud"}, "core.log_level"),
        ({}, "library"),
    ],
)
async def test_what_cannot_start_says_why_in_one_sentence(
    house_of_today: House, environment: dict[str, str], sentence: str
) -> None:
    # The last case starts a second library on a folder whose library runs.
    process, _ = await start_process(house_of_today, **environment)
    _, errors = await process.communicate()

    lines = errors.decode().strip().splitlines()
    assert process.returncode == 2
    assert sentence in lines[-1]
    assert "Traceback" not in errors.decode()


async def test_the_tables_are_what_the_migrations_make(tmp_path: Path) -> None:
    db = Database(f"sqlite+aiosqlite:///{tmp_path / 'library.sqlite3'}")

    assert await schema_differences(db, MIGRATIONS, metadata) == []

    await db.close()
