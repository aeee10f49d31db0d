"""The routing table, and the workers that are connected."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import Connection, update

from router_service.domain import StageKind
from router_service.generation_domain import Format
from router_service.registry_domain import ConnectedWorker, LoadedModel, ModelRow
from router_service.storage import Storage
from router_service.storage.tables import models
from service_kit.clock import ManualClock
from tests.support.shipped_models import CHAT, SHIPPED

SECOND = timedelta(seconds=1)
ROW = ModelRow("mine-*", 5, StageKind.GENERATE, "gpu", ("alias",), (Format.VIDEO,), 2, 512, 9, 60)
WORKER = ConnectedWorker("k1/one", "s1", ("sdxl", "chat"), (), 4, (("gpu", "a"), ("zone", "b")), "1.0")


def test_all_migrations_together_leave_the_routing_table_that_ships(sqlite_templates: Path) -> None:
    """Each writes its own values: changing what ships takes a migration, which installations of before get, too."""
    with closing(sqlite3.connect(sqlite_templates / "router.sqlite3")) as connection:
        rows = connection.execute("SELECT document FROM models UNION ALL SELECT document FROM chat_models").fetchall()
    documents = {document["name"]: document for document in (json.loads(row[0]) for row in rows)}
    assert documents == {row["name"]: row["document"] for row in (*SHIPPED, *CHAT)}


async def test_the_routing_table_ships_and_is_listed_in_order(router: Storage) -> None:
    async with router.write() as tx:
        shipped = await tx.registry.list_models()
        assert len(shipped) == len(SHIPPED) + len(CHAT)
        await tx.registry.put_model(ROW)
        await tx.registry.put_model(dataclasses.replace(ROW, name="another"))
        rows = await tx.registry.list_models()
        assert rows == sorted(rows, key=lambda row: (row.position, row.name))
        assert ROW in rows
        changed = dataclasses.replace(ROW, position=10**6, aliases=())
        await tx.registry.put_model(changed)
        assert (await tx.registry.list_models())[-1] == changed
        assert await tx.registry.delete_model("mine-*")
        assert not await tx.registry.delete_model("mine-*")
        assert len(await tx.registry.list_models()) == len(shipped) + 1


async def test_shipped_rows_get_their_frame_rate_by_the_migration_unless_an_operator_changed_them(
    router: Storage,
) -> None:
    migration = importlib.import_module("router_service.storage.migrations.versions.0011_frame_rates")

    def migrate(connection: Connection) -> None:
        with Operations.context(MigrationContext.configure(connection)):
            migration.upgrade()

    async with router.write() as tx:
        connection = tx.registry._connection
        for row in SHIPPED:
            document = {name: value for name, value in row["document"].items() if name != "default_frame_rate"}
            changed = document | ({"max_quantity": 2} if row["name"] == "*" else {})
            await connection.execute(update(models).where(models.c.name == row["name"]).values(document=changed))
        await connection.run_sync(migrate)
        rates = {row.name: row.default_frame_rate for row in await tx.registry.list_models()}
        assert (rates["wan"], rates["*"], rates["sdxl"]) == (16, 24, 24)


async def test_a_name_is_in_the_table_of_its_stage_only(router: Storage) -> None:
    talks = dataclasses.replace(ROW, stage=StageKind.CHAT, formats=())
    async with router.write() as tx:
        for row in (ROW, talks, ROW, talks):
            await tx.registry.put_model(row)
            assert [one for one in await tx.registry.list_models() if one.name == ROW.name] == [row]
        assert await tx.registry.delete_model(ROW.name)
        assert not await tx.registry.delete_model(ROW.name)


async def test_a_worker_says_whether_it_holds_conversations(router: Storage) -> None:
    async with router.write() as tx:
        for chats in (True, False):
            await tx.registry.worker_connected(dataclasses.replace(WORKER, chats=chats))
            assert [worker.chats for worker in await tx.registry.list_workers(seen_within=SECOND)] == [chats]


async def test_a_worker_says_what_it_knows_and_what_it_keeps_in_memory(router: Storage) -> None:
    loaded = (LoadedModel("sdxl", "cuda:0", 7 << 30), LoadedModel("wan", "cpu", 0))
    async with router.write() as tx:
        await tx.registry.worker_connected(dataclasses.replace(WORKER, steers=True, enhances=False))
        await tx.registry.worker_loaded("s1", loaded)
        await tx.registry.worker_loaded("another", ())
        (worker,) = await tx.registry.list_workers(seen_within=SECOND)
        assert (worker.steers, worker.enhances, worker.loaded) == (True, False, loaded)
        await tx.registry.worker_connected(dataclasses.replace(WORKER, session="s2"))
        (worker,) = await tx.registry.list_workers(seen_within=SECOND)
        assert (worker.steers, worker.enhances, worker.loaded) == (False, True, ())


async def test_a_later_session_takes_the_place_of_an_earlier_one(router: Storage, clock: ManualClock) -> None:
    later = dataclasses.replace(WORKER, session="s2", slots=8)
    other = dataclasses.replace(WORKER, holder="k1/other", session="s3", models=("m",), labels=())
    async with router.write() as tx:
        await tx.registry.worker_connected(WORKER)
        assert await tx.registry.list_workers(seen_within=SECOND) == [WORKER]
        for worker in (other, later):
            await tx.registry.worker_connected(worker)
        assert await tx.registry.list_workers(seen_within=SECOND) == [later, other]
        assert await tx.registry.session_of("k1/one") == "s2"
        assert await tx.registry.session_of("unknown") is None
        await tx.registry.worker_gone("s1")
        assert await tx.registry.session_of("k1/one") == "s2"
        await tx.registry.worker_gone("s2")
        assert await tx.registry.list_workers(seen_within=SECOND) == [other]


async def test_who_is_not_seen_is_forgotten(router: Storage, clock: ManualClock) -> None:
    async with router.write() as tx:
        await tx.registry.worker_connected(WORKER)
        await tx.registry.worker_connected(dataclasses.replace(WORKER, holder="k1/other", session="s2"))
        clock.advance(SECOND)
        await tx.registry.workers_seen(["s2"])
        assert [worker.session for worker in await tx.registry.list_workers(seen_within=SECOND)] == ["s2"]
        assert await tx.registry.remove_unseen(SECOND) == 0
        clock.advance(SECOND)
        assert await tx.registry.remove_unseen(SECOND) == 1
        assert await tx.registry.session_of("k1/one") is None
        assert await tx.registry.session_of("k1/other") == "s2"


async def test_a_forgotten_worker_is_noted_again_unless_it_has_a_later_session(router: Storage) -> None:
    later = dataclasses.replace(WORKER, session="s2")
    async with router.write() as tx:
        await tx.registry.worker_still_connected(WORKER)
        assert await tx.registry.list_workers(seen_within=SECOND) == [WORKER]
        await tx.registry.worker_connected(later)
        await tx.registry.worker_still_connected(WORKER)
        assert await tx.registry.list_workers(seen_within=SECOND) == [later]
