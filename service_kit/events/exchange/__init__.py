"""What the replicas of a service tell each other: small messages, at most once, in each sender's order.

The truth is in the database. Who misses a message finds it there within a second; so the way may be short and lossy.
"""

from __future__ import annotations

from service_kit.database import Database
from service_kit.events.exchange.local import Hub, LocalExchange
from service_kit.events.exchange.member import Exchange
from service_kit.events.exchange.postgres import PostgresExchange

__all__ = ["Exchange", "Hub", "LocalExchange", "PostgresExchange", "open_exchange"]


def open_exchange(db: Database) -> Exchange:
    """Return the way to the other replicas of the service that has this database. On SQLite there are none."""
    return LocalExchange(Hub()) if db.is_sqlite else PostgresExchange(db.url, db.schema)
