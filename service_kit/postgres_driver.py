"""PostgreSQL connections through psycopg: bounded in number, and none of them waits for ever.

A connection that the server has closed is thrown away when it is taken from the pool, not when a statement fails on it.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import psycopg
from psycopg import pq
from sqlalchemy import URL, event
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from service_kit.errors import FailedPrecondition
from service_kit.postgres_pipeline import PipelinedConnection, PipelinedCursor

STATEMENT_CLOCK = "statement_timestamp()"
"""The database's clock: it goes on within a transaction, is one moment for all rows of a statement, and may be compared
through an index, which `clock_timestamp()` may not."""

_NAMES = ("postgresql", "postgres")
_SECONDS = {
    # How long a transaction may hold locks while its process does nothing, for instance because it was stopped.
    "idle_in_transaction_session_timeout": 2,
    "lock_timeout": 5,
    "statement_timeout": 10,
    # How long the server waits for an answer of a machine that is gone.
    "tcp_user_timeout": 10,
}
_CONNECT_TIMEOUT_SECONDS = 5


def is_postgres(url: URL) -> bool:
    """Tell whether a URL names a PostgreSQL database."""
    return url.get_backend_name() in _NAMES


def with_driver(url: URL) -> URL:
    """Return the URL as SQLAlchemy takes it: `postgresql://` means psycopg. A URL of SQLite is returned as it is.

    Raises:
        FailedPrecondition: it names another kind of database.
    """
    if is_postgres(url):
        return url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() == "sqlite":
        return url
    raise FailedPrecondition(
        f"A database URL starts with postgresql://, got {url.drivername}://; leave it empty for SQLite files."
    )


def engine(
    url: URL,
    *,
    schema: str,
    pool_size: int,
    wait: timedelta,
    read_only: bool,
    frozen: Callable[[], datetime] | None,
    **options: Any,
) -> AsyncEngine:
    """Return a pool of connections; nothing is opened yet.

    Args:
        url: the database.
        schema: the only schema in which names are looked up; empty for the server's own search path.
        pool_size: how many connections there are at most.
        wait: how long to wait for one that is free; then SQLAlchemy's TimeoutError.
        read_only: whether each transaction sees one state of the database and cannot write.
        frozen: what stands for the database's clock in tests.
        **options: what else `create_async_engine` is told.
    """
    made = create_async_engine(
        url,
        connect_args={
            **_connect_args(url, schema, read_only=read_only),
            "async_creator_fn": PipelinedConnection.connect,
            "cursor_factory": PipelinedCursor,
        },
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=wait.total_seconds(),
        # Prompts are parameters, and errors are logged.
        hide_parameters=True,
        # Every transaction of ours ends by itself.
        pool_reset_on_return=None,
        **options,
    )

    @event.listens_for(made.sync_engine, "checkout")
    def refuse_closed(connection: Any, _record: Any, _proxy: Any) -> None:
        if _has_ended(connection.driver_connection):
            raise DisconnectionError

    if frozen is not None:
        _freeze(made, frozen)
    return made


async def connect(url: URL, schema: str) -> psycopg.AsyncConnection[Any]:
    """Return a connection outside every pool; each of its statements is a transaction. Raises psycopg.Error."""
    where = {**url.translate_connect_args(username="user", database="dbname"), **url.query}
    arguments = {**where, **_connect_args(url, schema, read_only=False)}
    return await psycopg.AsyncConnection.connect(**arguments, autocommit=True)


def _connect_args(url: URL, schema: str, *, read_only: bool) -> dict[str, Any]:
    session = {name: f"{seconds * 1000}" for name, seconds in _SECONDS.items()}
    if schema:
        session["search_path"] = schema
    if read_only:
        session |= {"default_transaction_isolation": r"repeatable\ read", "default_transaction_read_only": "on"}
    given = url.query.get("options", "")
    return {
        "application_name": f"atelier-{schema}" if schema else "atelier",
        "connect_timeout": _CONNECT_TIMEOUT_SECONDS,
        "keepalives_idle": 10,
        "keepalives_interval": 3,
        "keepalives_count": 3,
        "tcp_user_timeout": _SECONDS["tcp_user_timeout"] * 1000,
        # What the operator wrote into the URL comes last, and so wins.
        "options": " ".join([*(f"-c {name}={value}" for name, value in session.items()), str(given)]).strip(),
    }


def _has_ended(connection: Any) -> bool:
    """Tell whether an idle connection was closed by the server: only then is there something to read from it."""
    if connection.closed or connection.pgconn.pipeline_status != pq.PipelineStatus.OFF:
        return True
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN | select.POLLHUP | select.POLLERR)
    return bool(poll.poll(0))


def _freeze(made: AsyncEngine, frozen: Callable[[], datetime]) -> None:
    @event.listens_for(made.sync_engine, "before_cursor_execute", retval=True)
    def put_time(
        _connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool
    ) -> tuple[str, Any]:
        return _at(frozen, statement), parameters

    @event.listens_for(made.sync_engine, "connect")
    def put_time_later(connection: Any, _record: Any) -> None:
        connection.driver_connection.frozen = frozen


def send_later(connection: AsyncConnection, statement: str, parameters: Mapping[str, Any]) -> None:
    """Have a statement sent with what follows in its transaction, at the latest with its commit.

    Nobody hears what it answers; if it fails, the next statement or the commit raises.
    """
    driver: Any = connection.sync_connection.connection.driver_connection  # type: ignore[union-attr]
    driver.later(statement if driver.frozen is None else _at(driver.frozen, statement), parameters)


def _at(frozen: Callable[[], datetime], statement: str) -> str:
    return statement.replace(STATEMENT_CLOCK, f"'{frozen().isoformat()}'::timestamptz")
