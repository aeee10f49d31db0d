"""One moment of the schemas of all services in one PostgreSQL database, as one file for each table; and back.

The files have what COPY writes; the tables themselves are made by the migrations. So a backup can be read by any
server and any release that knows its revision, and no program of the server's own version is needed.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from service_kit.backup.manifest import StoredFile
from service_kit.backup.sqlite_files import stored
from service_kit.database import Database

_PIECE = 1 << 18
_SKIPPED = "alembic_version"

# Tables of a schema that are durable, with the columns that can be written.
_TABLES = """
SELECT c.relname, array_agg(a.attname::text ORDER BY a.attnum)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
WHERE n.nspname = %s AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p'
GROUP BY c.relname ORDER BY c.relname
"""
_REFERENCES = """
SELECT f.relname, t.relname FROM pg_constraint k
JOIN pg_class f ON f.oid = k.conrelid JOIN pg_class t ON t.oid = k.confrelid
JOIN pg_namespace n ON n.oid = f.relnamespace
WHERE k.contype = 'f' AND n.nspname = %s AND f.oid <> t.oid
"""
_COUNTED = """
SELECT c.relname, a.attname, pg_get_serial_sequence(format('%%I.%%I', n.nspname, c.relname), a.attname)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE n.nspname = %s AND c.relkind = 'r'
    AND pg_get_serial_sequence(format('%%I.%%I', n.nspname, c.relname), a.attname) IS NOT NULL
"""
_NO_LIMITS = ("statement_timeout", "idle_in_transaction_session_timeout", "lock_timeout")


@asynccontextmanager
async def one_moment(db: Database) -> AsyncIterator[AsyncConnection]:
    """Give a transaction that sees one moment of all schemas for as long as it takes."""
    async with db.read() as tx:
        for name in _NO_LIMITS:
            await tx.execute(text(f"SET LOCAL {name} = 0"))
        yield tx


async def driver_of(tx: AsyncConnection) -> psycopg.AsyncConnection[Any]:
    """Return the driver's own connection, which can COPY."""
    raw = await tx.get_raw_connection()
    connection = raw.driver_connection
    if not isinstance(connection, psycopg.AsyncConnection):
        raise TypeError("not a connection to PostgreSQL")
    return connection


async def look_into(tx: AsyncConnection, schema: str) -> None:
    """Have names mean the tables of a schema from here on."""
    connection = await driver_of(tx)
    await connection.execute(sql.SQL("SET LOCAL search_path TO {}").format(sql.Identifier(schema)))


async def copy_out(tx: AsyncConnection, schema: str, folder: Path, root: Path) -> tuple[StoredFile, ...]:
    """Write every table of a schema into a folder. Returns the files in the order in which they can be loaded."""
    connection = await driver_of(tx)
    tables = await _tables(connection, schema)
    await asyncio.to_thread(folder.mkdir, mode=0o700)
    files = []
    for name in await _in_loading_order(connection, schema, list(tables)):
        path = folder / f"{name}.copy"
        with _new_file(path) as file:
            file.write("\t".join(tables[name]).encode() + b"\n")
            async with connection.cursor() as cursor:
                async with cursor.copy(_copy_sql(schema, name, tables[name], "TO STDOUT")) as copy:
                    async for piece in copy:
                        file.write(bytes(piece))
        files.append(await asyncio.to_thread(stored, path, root))
    return tuple(files)


async def copy_in(tx: AsyncConnection, schema: str, files: Sequence[Path]) -> None:
    """Replace every row of a schema by those of files, as a database that never was there before."""
    for name in _NO_LIMITS:
        await tx.execute(text(f"SET LOCAL {name} = 0"))
    connection = await driver_of(tx)
    tables = await _tables(connection, schema)
    if tables:
        names = sql.SQL(", ").join(sql.Identifier(schema, name) for name in tables)
        await connection.execute(sql.SQL("TRUNCATE {}").format(names))
    for path in files:
        name = path.name.removesuffix(".copy")
        async with connection.cursor() as cursor:
            async with cursor.copy(_copy_sql(schema, name, _header(path), "FROM STDIN")) as copy:
                with path.open("rb") as file:
                    file.readline()
                    while piece := await asyncio.to_thread(file.read, _PIECE):
                        await copy.write(piece)
    await _count_on(connection, schema)
    source = sql.Identifier(schema, "event_source")
    await connection.execute(sql.SQL("UPDATE {} SET epoch = %s").format(source), (secrets.token_hex(8),))
    if "deletion_pause" in tables:
        await connection.execute(sql.SQL("DELETE FROM {}").format(sql.Identifier(schema, "deletion_pause")))


async def has_tables(tx: AsyncConnection, schema: str) -> bool:
    """Tell whether a schema has any table."""
    found = await tx.execute(
        text("SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE nspname = :schema"),
        {"schema": schema},
    )
    return bool(found.scalar_one())


async def _tables(connection: psycopg.AsyncConnection[Any], schema: str) -> dict[str, list[str]]:
    rows = await (await connection.execute(_TABLES, (schema,))).fetchall()
    return {name: list(columns) for name, columns in rows if name != _SKIPPED}


async def _in_loading_order(connection: psycopg.AsyncConnection[Any], schema: str, names: Sequence[str]) -> list[str]:
    """Return tables so that each comes after those that its rows refer to."""
    rows = await (await connection.execute(_REFERENCES, (schema,))).fetchall()
    needs = {name: {target for source, target in rows if source == name} for name in names}
    ordered: list[str] = []
    while needs:
        ready = sorted(name for name, targets in needs.items() if targets <= set(ordered))
        if not ready:
            raise ValueError(f"the tables of {schema} refer to each other in a circle")
        ordered += ready
        needs = {name: targets for name, targets in needs.items() if name not in ready}
    return ordered


async def _count_on(connection: psycopg.AsyncConnection[Any], schema: str) -> None:
    """Have sequences go on after the highest number that was loaded."""
    for table, column, sequence in await (await connection.execute(_COUNTED, (schema,))).fetchall():
        highest = sql.SQL("SELECT setval({}, coalesce((SELECT max({}) FROM {}), 0) + 1, false)").format(
            sql.Literal(sequence), sql.Identifier(column), sql.Identifier(schema, table)
        )
        await connection.execute(highest)


def _copy_sql(schema: str, table: str, columns: Sequence[str], direction: str) -> sql.Composed:
    return sql.SQL("COPY {} ({}) " + direction).format(
        sql.Identifier(schema, table), sql.SQL(", ").join(map(sql.Identifier, columns))
    )


def _header(path: Path) -> list[str]:
    """Return the columns of a file: its first line."""
    with path.open("rb") as file:
        return file.readline().decode("utf-8").rstrip("\n").split("\t")


def _new_file(path: Path) -> Any:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb")
