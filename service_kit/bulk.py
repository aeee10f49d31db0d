"""Many rows with one statement: arrays through `unnest` on PostgreSQL, `executemany` on SQLite.

A statement that is sent row by row costs a row's round trip on PostgreSQL; on SQLite it costs next to nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Self

from sqlalchemy import (
    ARRAY,
    JSON,
    Boolean,
    ColumnElement,
    Delete,
    Dialect,
    Insert,
    Table,
    Text,
    TypeDecorator,
    Update,
    and_,
    bindparam,
    delete,
    insert,
    select,
    tuple_,
)
from sqlalchemy import update as update_of
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.dml import ReturningInsert
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine

from service_kit import sqlite_connections
from service_kit.database import db_now, json_list
from service_kit.postgres_driver import STATEMENT_CLOCK, send_later

Row = Mapping[str, Any]
DELETE_AT_ONCE = 2000
"""How many old rows one transaction deletes: others that write must not wait for long."""


class _Texts(TypeDecorator[Sequence[str]]):
    """A list of texts as one value: JSON on SQLite, an array on PostgreSQL."""

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Choose the type of a database."""
        return dialect.type_descriptor(Text() if dialect.name == "sqlite" else ARRAY(Text()))

    def process_bind_param(self, value: Sequence[str] | None, dialect: Dialect) -> Any:
        """Turn the list into what the database is sent."""
        return json_list(value or ()) if dialect.name == "sqlite" else list(value or ())


class _Among(FunctionElement[bool]):
    name = "among"
    inherit_cache = True
    type = Boolean()

    def self_group(self, against: Any = None) -> Self:
        """Stay a condition as it is: as `(… IN …) = 1`, which SQLAlchemy writes for SQLite, it uses no index."""
        return self


@compiles(_Among, "sqlite")
def _among_on_sqlite(element: _Among, compiler: SQLCompiler, **options: Any) -> str:
    column, values = (compiler.process(clause, **options) for clause in element.clauses)
    return f"({column} IN (SELECT value FROM json_each({values})))"  # noqa: S608 - both are compiled clauses


@compiles(_Among, "postgresql")
def _among_on_postgresql(element: _Among, compiler: SQLCompiler, **options: Any) -> str:
    column, values = (compiler.process(clause, **options) for clause in element.clauses)
    return f"({column} = ANY ({values}))"


def among(column: ColumnElement[str], values: Iterable[str] | str) -> ColumnElement[bool]:
    """Return the condition that a text is one of some, sent as one value. A name is that of a parameter."""
    parameter = (
        bindparam(values, type_=_Texts()) if isinstance(values, str) else bindparam(None, list(values), _Texts())
    )
    return _Among(column, parameter)


def upsert(connection: AsyncConnection, table: Table) -> Any:
    """Return an INSERT of the connection's database, which has `on_conflict_do_nothing` and `on_conflict_do_update`."""
    return sqlite_insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


async def delete_some(
    connection: AsyncConnection, table: Table, where: ColumnElement[bool], *, limit: int = DELETE_AT_ONCE
) -> int:
    """Delete some of the rows of which a condition is true; none that another transaction has locked.

    Returns:
        How many. None means that there are no more, or that somebody else deletes them.
    """
    key = table.primary_key.columns.values()
    some = select(*key).where(where).limit(limit).with_for_update(skip_locked=True)
    chosen = tuple_(*key).in_(some) if len(key) > 1 else key[0].in_(some)
    return (await connection.execute(delete(table).where(chosen))).rowcount


async def delete_rows(
    connection: AsyncConnection, table: Table, column: str, values: Collection[str], **same: str
) -> None:
    """Delete the rows whose column is one of some texts, and whose other columns are as `same` says.

    This is sent as the rows of `insert_rows`.
    """
    if not values:
        return
    if connection.dialect.name == "sqlite":
        sent = {"among_": list(values), **same}
        await sqlite_connections.send_later(connection, _delete_of(table, column, tuple(same)), sent)
    else:
        send_later(connection, _delete_sql(table, column, tuple(same)), {"among_": list(values), **same})


async def insert_rows(connection: AsyncConnection, table: Table, rows: Sequence[Row], *, moment: str = "") -> None:
    """Insert rows that all have the same columns, and the database's clock in the column `moment` if it is named.

    Without rows nothing happens. They are sent with the next statement, or with the commit, which then raises what they
    break.
    """
    if not rows:
        return
    if connection.dialect.name == "sqlite":
        await sqlite_connections.send_later(connection, _insert_of(table, moment), list(rows))
    else:
        names = tuple(rows[0])
        send_later(connection, _insert_sql(table, names, moment), _arrays(table, rows, names))


async def insert_new_rows(
    connection: AsyncConnection, table: Table, rows: Sequence[Row], *, unique: Sequence[str], returning: str
) -> set[str]:
    """Insert those rows that break no unique constraint over some columns; the others are left out.

    On PostgreSQL a row that another transaction is about to insert is waited for; rows are taken in the order given, so
    callers sort them.

    Returns:
        The texts of one column of the rows that were inserted.
    """
    if not rows:
        return set()
    if connection.dialect.name == "sqlite":
        # One by one: a driver's `executemany` returns no rows.
        statement = _insert_new_of(table, tuple(unique), returning)
        results = [await connection.execute(statement, row) for row in rows]
        return {value for result in results for value in result.scalars()}
    names = tuple(rows[0])
    keys = ", ".join(unique)
    sql = f"{_insert_sql(table, names)} ON CONFLICT ({keys}) DO NOTHING RETURNING {returning}"
    return set((await connection.exec_driver_sql(sql, _arrays(table, rows, names))).scalars())


async def put_rows(connection: AsyncConnection, table: Table, rows: Sequence[Row], *, key: Sequence[str]) -> None:
    """Insert rows, or write their values over those of the rows that have their key. Callers sort them by it.

    They are sent as those of `insert_rows`.
    """
    if not rows:
        return
    names = tuple(rows[0])
    if connection.dialect.name == "sqlite":
        await sqlite_connections.send_later(connection, _put_of(table, names, tuple(key)), list(rows))
        return
    changes = ", ".join(f"{name} = excluded.{name}" for name in names if name not in key)
    sql = f"{_insert_sql(table, names)} ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changes}"
    send_later(connection, sql, _arrays(table, rows, names))


async def update_rows(connection: AsyncConnection, table: Table, rows: Sequence[Row], *, match: Sequence[str]) -> int:
    """Update one row for each that is given, by several columns.

    Args:
        connection: of a transaction.
        table: whose rows.
        rows: all with the same columns. A column in `match` is compared, `new_NAME` is written into the column NAME,
            any other is written into the column of its name.
        match: the columns that must be equal, such as the expected state.

    Returns:
        How many rows were changed: as many as given if all were as expected.
    """
    if not rows:
        return 0
    if connection.dialect.name == "sqlite":
        statement, prefixed = _update_on_sqlite(table, rows, match)
        return (await connection.execute(statement, prefixed)).rowcount
    names = tuple(rows[0])
    sql, values = _update_sql(table, names, tuple(match)), _arrays(table, rows, names)
    return (await connection.exec_driver_sql(sql, values)).rowcount


async def change_rows(
    connection: AsyncConnection,
    table: Table,
    rows: Sequence[Row],
    *,
    match: Sequence[str],
    refuse: Callable[[int], Exception],
) -> None:
    """Update rows as `update_rows` does, and raise what `refuse` makes of their number if not all were as expected.

    On SQLite the next statement raises it, or the commit, which then does not take place.
    """
    if rows and isinstance(connection, sqlite_connections.Connection):
        statement, prefixed = _update_on_sqlite(table, rows, match)
        await connection.change_later(statement, prefixed, refuse)
        return
    changed = await update_rows(connection, table, rows, match=match)
    if changed != len(rows):
        raise refuse(changed)


async def write_rows(connection: AsyncConnection, table: Table, rows: Sequence[Row], *, match: Sequence[str]) -> None:
    """Update rows as `update_rows` does, where the caller has looked, under a lock, and knows that all are as expected.

    On PostgreSQL this is sent as the rows of `insert_rows`.
    """
    if rows and connection.dialect.name == "postgresql":
        names = tuple(rows[0])
        send_later(connection, _update_sql(table, names, tuple(match)), _arrays(table, rows, names))
    else:
        await update_rows(connection, table, rows, match=match)


def _update_on_sqlite(table: Table, rows: Sequence[Row], match: Sequence[str]) -> tuple[Update, list[dict[str, Any]]]:
    """Return the statement that updates one row, and its parameters for each: columns are compared and written."""
    names = {name: f"is_{name}" if name in match else f"to_{name}" for name in rows[0]}
    prefixed = [{names[name]: value for name, value in row.items()} for row in rows]
    return _update_of(table, tuple(names), tuple(match)), prefixed


def _arrays(table: Table, rows: Sequence[Row], names: Sequence[str]) -> dict[str, list[Any]]:
    return {
        name: [_json_text(row[name]) for row in rows]
        if isinstance(table.c[_target(name)].type, JSON)
        else [row[name] for row in rows]
        for name in names
    }


def _json_text(value: Any) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _target(name: str) -> str:
    return name.removeprefix("new_")


# What SQLAlchemy is told is made once as well: to make a statement and to know it again costs as much as to run it.


@lru_cache(maxsize=256)
def _delete_of(table: Table, column: str, same: tuple[str, ...]) -> Delete:
    return delete(table).where(
        among(table.c[column], "among_"), *(table.c[name] == bindparam(name, type_=table.c[name].type) for name in same)
    )


@lru_cache(maxsize=256)
def _insert_of(table: Table, moment: str) -> Insert:
    statement = insert(table)
    return statement.values({moment: db_now()}) if moment else statement


@lru_cache(maxsize=256)
def _insert_new_of(table: Table, unique: tuple[str, ...], returning: str) -> ReturningInsert[Any]:
    statement = sqlite_insert(table).on_conflict_do_nothing(index_elements=list(unique))
    return statement.returning(table.c[returning])


@lru_cache(maxsize=256)
def _put_of(table: Table, names: tuple[str, ...], key: tuple[str, ...]) -> Insert:
    statement = sqlite_insert(table)
    changed = {name: statement.excluded[name] for name in names if name not in key}
    return statement.on_conflict_do_update(index_elements=list(key), set_=changed)


@lru_cache(maxsize=256)
def _update_of(table: Table, names: tuple[str, ...], match: tuple[str, ...]) -> Update:
    return (
        update_of(table)
        .where(and_(*(table.c[name] == bindparam(f"is_{name}") for name in match)))
        .values({table.c[_target(name)]: bindparam(f"to_{name}") for name in names if name not in match})
    )


@lru_cache(maxsize=256)
def _insert_sql(table: Table, names: tuple[str, ...], moment: str = "") -> str:
    columns = ", ".join(names)
    into, what = (f"{columns}, {moment}", f"{columns}, {STATEMENT_CLOCK}") if moment else (columns, columns)
    return f"INSERT INTO {table.name} ({into}) SELECT {what} FROM {_sent(table, names)}"  # noqa: S608 - our own names


@lru_cache(maxsize=256)
def _update_sql(table: Table, names: tuple[str, ...], match: tuple[str, ...]) -> str:
    changes = ", ".join(f"{_target(name)} = sent.{name}" for name in names if name not in match)
    same = " AND ".join(f"{table.name}.{name} = sent.{name}" for name in match)
    return f"UPDATE {table.name} SET {changes} FROM {_sent(table, names)} WHERE {same}"  # noqa: S608 - our own names


@lru_cache(maxsize=256)
def _delete_sql(table: Table, column: str, same: tuple[str, ...]) -> str:
    others = "".join(f" AND {name} = %({name})s" for name in same)
    return f"DELETE FROM {table.name} WHERE {column} = ANY (%(among_)b::text[]){others}"  # noqa: S608 - our own names


def _sent(table: Table, names: tuple[str, ...]) -> str:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    # In binary: as text an array of documents costs a hundred times as much.
    arrays = ", ".join(f"%({name})b::{table.c[_target(name)].type.compile(dialect)}[]" for name in names)
    return f"unnest({arrays}) AS sent ({', '.join(names)})"
