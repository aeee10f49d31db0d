"""A PostgreSQL connection on which statements whose answer nobody reads make no round trips of their own.

They travel with the next statement, or with COMMIT, in one message: a job that is alone costs what its round trips
cost. Statements keep their order. One that fails is heard of when the next one is sent, or at the commit, which then
does not take place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, Self

import psycopg
from psycopg.pq import TransactionStatus

_Later = tuple[str, Any]


class PipelinedConnection(psycopg.AsyncConnection[Any]):
    """A connection to which statements may be left for later; its cursors must be `PipelinedCursor`."""

    # What stands for the database's clock in tests.
    frozen: Callable[[], datetime] | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._later: list[_Later] = []

    def later(self, query: str, parameters: Any) -> None:
        """Have a statement sent with what follows in its transaction. Nobody hears what it answers."""
        self._later.append((query, parameters))

    @property
    def has_unsent(self) -> bool:
        """Whether something was left for later."""
        return bool(self._later)

    async def send_unsent(self) -> None:
        """Send what was left for later; in a pipeline."""
        unsent, self._later = self._later, []
        for query, parameters in unsent:
            await psycopg.AsyncCursor(self).execute(query, parameters)

    async def commit(self) -> None:
        """Send what is left and commit. If that fails nothing was done, unless the connection broke meanwhile."""
        if not self._later:
            await super().commit()
            return
        try:
            async with self.pipeline():
                await self.send_unsent()
                await super().commit()
        except psycopg.Error:
            if not self.closed:
                await self.rollback()
            raise

    async def rollback(self) -> None:
        """Undo everything; what was not sent never is."""
        self._later = []
        await super().rollback()


class PipelinedCursor(psycopg.AsyncCursor[Any]):
    """A cursor that takes along what was left for later on its connection."""

    async def execute(self, query: Any, params: Any = None, **options: Any) -> Self:
        """Execute a statement, after what was left for later."""
        connection: Any = self._conn
        begins = connection.pgconn.transaction_status == TransactionStatus.IDLE and not connection.autocommit
        # The first statement of a transaction takes its BEGIN along.
        if not begins and not connection.has_unsent:
            return await super().execute(query, params, **options)
        async with connection.pipeline():
            await connection.send_unsent()
            await super().execute(query, params, **options)
        return self

    async def executemany(self, query: Any, params_seq: Iterable[Any], *, returning: bool = False) -> None:
        """Execute a statement with each of these parameters, after what was left for later."""
        connection: Any = self._conn
        async with connection.pipeline():
            await connection.send_unsent()
            await super().executemany(query, params_seq, returning=returning)
