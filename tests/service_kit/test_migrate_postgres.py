"""Schemas on PostgreSQL: made once by whoever comes first, and what a service does until that has happened."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import psycopg
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sqlalchemy import text
from sqlalchemy.engine import make_url

from atelier.router.v1.router_service_pb2 import GetJobRequest
from atelier.router.v1.router_service_pb2_grpc import RouterServiceStub
from atelier_cli.__main__ import main as atelier
from faults.ports import free_port
from library_service.storage.migrations import LATER_INDEXES
from service_kit.channels import connect
from service_kit.database import Database
from service_kit.errors import FailedPrecondition, Unavailable
from service_kit.migrate import ensure_schema, newest_revision, schema_differences, stored_revision, upgrade
from service_kit.schema_gate import schema_ready
from tests.support.postgres import SERVICES, metadata_of
from tests.support.processes import ROOT

MIGRATE = """
import asyncio, sys
from service_kit.database import Database
from service_kit.migrate import upgrade
async def main():
    db = Database(sys.argv[1], schema="router")
    sys.stdin.read(1)
    print(await upgrade(db, "router_service.storage.migrations"))
    await db.close()
asyncio.run(main())
"""


@pytest.mark.parametrize("service", SERVICES)
async def test_the_migrations_of_a_service_make_its_tables(service: str, postgres_url: str) -> None:
    db = Database(postgres_url, schema=service)
    assert await stored_revision(db) is None
    assert await schema_differences(db, f"{service}_service.storage.migrations", metadata_of(service)) == []
    async with db.read() as tx:
        where = await tx.execute(text("SELECT DISTINCT schemaname FROM pg_tables WHERE tablename = 'alembic_version'"))
        assert where.scalars().all() == [service]
    assert await upgrade(db, f"{service}_service.storage.migrations") is None
    await db.close()


def test_of_processes_that_start_at_once_one_migrates(postgres_url: str) -> None:
    racing = [
        subprocess.Popen(
            [sys.executable, "-c", MIGRATE, postgres_url],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in racing:
        assert process.stdin is not None
        process.stdin.write("x")
        process.stdin.flush()
    answers = [process.communicate()[0].strip() for process in racing]
    newest = newest_revision("router_service.storage.migrations")
    assert sorted(answers) == sorted([newest, "None", "None"])
    assert all(process.returncode == 0 for process in racing)


async def test_who_waits_too_long_for_another_migration_is_told(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service_kit.migrate._TURN", "50ms")
    first, second = Database(postgres_url, schema="router"), Database(postgres_url, schema="router")
    async with first.write() as tx:
        await first.lock(tx, "migration")
        with pytest.raises(Unavailable, match="lock timeout"):
            await ensure_schema(second, "router_service.storage.migrations")
    assert await ensure_schema(second, "router_service.storage.migrations")
    await first.close()
    await second.close()


async def test_a_failed_migration_leaves_nothing(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = tmp_path / "broken_migrations" / "versions"
    versions.mkdir(parents=True)
    (versions / "0001_broken.py").write_text(
        "from alembic import op\nrevision, down_revision = '0001', None\n"
        "def upgrade():\n    op.execute('CREATE TABLE things ()')\n    op.execute('SELECT 1/0')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    db = Database(postgres_url, schema="things")
    with pytest.raises(Exception, match="division by zero"):
        await upgrade(db, "broken_migrations")
    async with db.read() as tx:
        assert (await tx.execute(text("SELECT count(*) FROM pg_namespace WHERE nspname = 'things'"))).scalar_one() == 0
    await db.close()


async def test_a_role_that_owns_only_its_schema_is_enough(postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        role = f"role_{make_url(postgres_url).database}"
        admin.execute(f"CREATE ROLE {role} LOGIN")
        admin.execute(f"CREATE SCHEMA router AUTHORIZATION {role}")
        try:
            url = make_url(postgres_url).set(username=role).render_as_string()
            db = Database(url, schema="router")
            assert await ensure_schema(db, "router_service.storage.migrations")
            await db.close()
            other = Database(url, schema="asset")
            with pytest.raises(Exception, match="permission denied"):
                await ensure_schema(other, "asset_service.storage.migrations")
            await other.close()
        finally:
            admin.execute(f"DROP OWNED BY {role} CASCADE")
            admin.execute(f"DROP ROLE {role}")


def test_the_command_migrates_one_service_or_all(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ATELIER_DATABASE_URL", postgres_url)
    monkeypatch.setenv("ATELIER_DATA_DIR", str(tmp_path))
    assert atelier(["migrate", "--service", "asset"]) == 0
    assert capsys.readouterr().out.startswith("asset: now at ")
    assert atelier(["migrate"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == list(SERVICES)
    assert "asset: was up to date" in lines
    assert not list(tmp_path.rglob("*.sqlite3"))


def test_the_command_says_why_a_database_cannot_be_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ATELIER_DATABASE_URL", f"postgresql://somebody:hidden@127.0.0.1:{free_port()}/atelier")
    monkeypatch.setenv("ATELIER_DATA_DIR", str(tmp_path))
    assert atelier(["migrate"]) != 0
    told = capsys.readouterr().err
    assert "refused" in told
    assert "hidden" not in told


async def test_a_service_waits_for_its_schema_and_says_so(postgres_url: str, caplog: pytest.LogCaptureFixture) -> None:
    listen = f"127.0.0.1:{free_port()}"
    waiting, operator = Database(postgres_url, schema="router"), Database(postgres_url, schema="router")
    package = "router_service.storage.migrations"
    ready = asyncio.create_task(schema_ready(waiting, package, listen=listen))
    channel = connect(listen)
    health: Any = health_pb2_grpc.HealthStub(channel)
    answer = await health.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await RouterServiceStub(channel).GetJob(GetJobRequest(job_id="j"), timeout=10)
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert not ready.done()
    await upgrade(operator, package)
    await asyncio.wait_for(ready, 10)
    await channel.close()
    assert any("atelier migrate" in str(record.__dict__) for record in caplog.records)
    await schema_ready(waiting, package, listen=listen)
    await waiting.close()
    await operator.close()


async def test_a_service_waits_for_its_server(postgres_url: str) -> None:
    nowhere = make_url(postgres_url).set(port=free_port()).render_as_string()
    db = Database(nowhere, schema="router")
    waiting = asyncio.create_task(
        schema_ready(db, "router_service.storage.migrations", listen=f"127.0.0.1:{free_port()}")
    )
    done, _ = await asyncio.wait({waiting}, timeout=0.1)
    assert not done
    waiting.cancel()
    await asyncio.wait({waiting})
    await db.close()


async def test_a_schema_of_a_newer_release_is_refused(migrated_postgres_url: str) -> None:
    db = Database(migrated_postgres_url, schema="router")
    async with db.write() as tx:
        await tx.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(FailedPrecondition, match="newer release"):
        await schema_ready(db, "router_service.storage.migrations", listen="127.0.0.1:0")
    await db.close()


LIBRARY = "library_service.storage.migrations"


async def valid_indexes(url: str) -> dict[str, bool]:
    """Return which of the library's later indexes there are, and whether they can be used."""
    query = (
        "SELECT c.relname, i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
        " WHERE i.indrelid = 'library.user_library'::regclass AND c.relname = ANY(%s)"
    )
    async with await psycopg.AsyncConnection.connect(url) as connection:
        return dict(await (await connection.execute(query, (list(LATER_INDEXES),))).fetchall())


async def test_a_large_index_is_built_while_others_write(postgres_url: str) -> None:
    """A transaction that has written keeps a build waiting; whoever writes meanwhile waits for nobody."""
    db = Database(postgres_url, schema="library")
    await upgrade(db, LIBRARY)
    add = (
        "INSERT INTO library.user_library"
        " (item_id, tenant_id, owner_id, asset_id, format, provenance, created_at, version)"
        " VALUES (%s, 't', 'ann', %s, 'image', '', now(), 1)"
    )
    async with (
        await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as other,
        await psycopg.AsyncConnection.connect(postgres_url) as writing,
    ):
        await other.execute("DROP INDEX library.user_library_words")
        await other.execute("SET lock_timeout = '5s'")
        await writing.execute(add, ("one", "one"))
        building = asyncio.create_task(upgrade(db, LIBRARY))
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        async with asyncio.timeout(20):
            while not (await (await other.execute(waiting)).fetchall())[0][0]:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)
        await other.execute(add, ("two", "two"))
        assert not building.done()
        await writing.commit()
        await building
    assert await valid_indexes(postgres_url) == dict.fromkeys(LATER_INDEXES, True)
    await db.close()


async def test_an_index_whose_build_broke_off_is_built_again(postgres_url: str) -> None:
    db = Database(postgres_url, schema="library")
    await upgrade(db, LIBRARY, to="0005")
    assert await valid_indexes(postgres_url) == {}
    assert await upgrade(db, LIBRARY) == newest_revision(LIBRARY)
    async with await psycopg.AsyncConnection.connect(postgres_url, autocommit=True) as other:
        await other.execute(
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'library.user_library_trashed'::regclass"
        )
    assert (await valid_indexes(postgres_url))["user_library_trashed"] is False
    # By two at once, of which one builds.
    assert list(await asyncio.gather(upgrade(db, LIBRARY), upgrade(db, LIBRARY))) == [None, None]
    assert await valid_indexes(postgres_url) == dict.fromkeys(LATER_INDEXES, True)
    await db.close()
