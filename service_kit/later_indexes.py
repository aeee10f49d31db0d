"""Indexes that are built after the migrations, on PostgreSQL: a table that is in use can be written to meanwhile.

A migration is one transaction, in which an index keeps writers away from its table for as long as it takes to read it:
12 s for a million items. `CREATE INDEX CONCURRENTLY` does not, and cannot be part of one. So a package of migrations
may have `LATER_INDEXES`, by name what follows `CREATE INDEX name` on PostgreSQL. A build that broke off leaves an index
that is not valid; it is dropped and built again. Until then queries are answered, more slowly.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg import sql

from service_kit import postgres_driver
from service_kit.database import Database
from service_kit.errors import Unavailable

_VALID = """
SELECT c.relname, i.indisvalid FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = ANY(%s)
"""
# Asked for again and again: whoever waited for it inside a statement would be waited for by the build.
_TURN = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"
_TURN_WITHIN_S = 600.0
_LOOK_AGAIN_S = 0.2


async def build_later_indexes(db: Database, package: str) -> list[str]:
    """Build those of a package's later indexes that are lacking. Returns their names.

    Raises:
        Unavailable: PostgreSQL cannot be reached, or somebody else has been building them for ten minutes.
    """
    wanted: Mapping[str, str] = getattr(importlib.import_module(package), "LATER_INDEXES", {})
    if db.is_sqlite or not wanted:
        return []
    try:
        return await _build(db, wanted)
    except psycopg.OperationalError as error:
        raise Unavailable(f"Indexes of {db.schema} could not be built: {error}. Migrate again.") from error


async def _build(db: Database, wanted: Mapping[str, str]) -> list[str]:
    connection = await postgres_driver.connect(db.url, db.schema)
    try:
        if not await _lacking(connection, db.schema, wanted):
            return []
        await _take_turn(connection, db.schema)
        built = await _lacking(connection, db.schema, wanted)
        for name, there in built.items():
            if there:
                await connection.execute(sql.SQL("DROP INDEX CONCURRENTLY {}").format(sql.Identifier(name)))
            # The text stands in the code of a migration.
            await connection.execute(f"CREATE INDEX CONCURRENTLY {name} {wanted[name]}".encode())
        return list(built)
    finally:
        # The lock goes with the connection.
        await connection.close()


async def _take_turn(connection: psycopg.AsyncConnection[Any], schema: str) -> None:
    for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
        await connection.execute(sql.SQL("SET {} = 0").format(sql.Identifier(name)))
    try:
        async with asyncio.timeout(_TURN_WITHIN_S):
            while not await _has_turn(connection, schema):  # noqa: ASYNC110 - whoever lets go tells nobody
                await asyncio.sleep(_LOOK_AGAIN_S)
    except TimeoutError:
        raise Unavailable(f"Somebody else has been building indexes of {schema} for ten minutes.") from None


async def _has_turn(connection: psycopg.AsyncConnection[Any], schema: str) -> bool:
    row = await (await connection.execute(_TURN, (f"atelier/{schema}/indexes",))).fetchone()
    return row is not None and bool(row[0])


async def _lacking(connection: psycopg.AsyncConnection[Any], schema: str, wanted: Mapping[str, str]) -> dict[str, bool]:
    """Return the indexes that are not there or not valid, by name whether they are there."""
    rows = await (await connection.execute(_VALID, (schema, list(wanted)))).fetchall()
    valid = dict(rows)
    return {name: name in valid for name in wanted if not valid.get(name)}
