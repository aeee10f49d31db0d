"""Locks that belong to no row: whoever takes the same name waits for the other's end."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy.ext.asyncio import AsyncConnection

from service_kit.postgres_driver import send_later

# In one statement and in the order of the names, so that two transactions never wait for each other in a circle; the
# schema keeps services apart.
_TAKE = """
SELECT CASE WHEN alone
    THEN pg_advisory_xact_lock(hashtextextended(current_schema() || '/lock/' || name, 0))
    ELSE pg_advisory_xact_lock_shared(hashtextextended(current_schema() || '/lock/' || name, 0)) END
FROM unnest(%(names)b::text[], %(alone)b::boolean[]) AS wanted (name, alone)
"""


class Locks:
    """Named locks, held until the transaction ends. Taken after pools and before every row."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def take(self, names: Collection[str], *, beside_others: Collection[str] = ()) -> None:
        """Have the next statement wait until no other transaction holds any of the names.

        Those who take a name with `beside_others` do not wait for each other. Once in a transaction; on SQLite there is
        one writer, who needs no lock.
        """
        wanted = dict.fromkeys(beside_others, False) | dict.fromkeys(names, True)
        if not wanted or self._connection.dialect.name == "sqlite":
            return
        order = sorted(wanted)
        send_later(self._connection, _TAKE, {"names": order, "alone": [wanted[name] for name in order]})
