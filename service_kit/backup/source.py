"""What is backed up: which services there are, where their databases are, and which blobs their rows know."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection

from service_kit import postgres_driver
from service_kit.errors import FailedPrecondition
from service_kit.settings import Settings

Place = tuple[str, str]
"""Bucket and key of a blob."""


@dataclass(frozen=True, slots=True)
class KnownBlob:
    """A blob that a row knows; `generation` is empty unless the row says that it is there."""

    bucket: str
    key: str
    generation: str = ""


KeptBlobs = Callable[[AsyncConnection], AsyncIterator[KnownBlob]]
"""Gives every blob that the rows of a service know, whatever the rows' states."""

Regenerate = Callable[[AsyncConnection, Mapping[Place, str]], Awaitable[None]]
"""Has the rows of a service know blobs by the generations that they have now."""


@dataclass(frozen=True, slots=True)
class Service:
    """One service with a database.

    Attributes:
        name: such as `asset`; also its schema and its folder.
        migrations: the package of its migrations.
        kept_blobs: the blobs that its rows know; None for a service that has none, and no deletions to pause.
        regenerate: there when `kept_blobs` is.
    """

    name: str
    migrations: str
    kept_blobs: KeptBlobs | None = None
    regenerate: Regenerate | None = None


@dataclass(frozen=True, slots=True)
class Databases:
    """Where the databases of all services are: SQLite files, or the schemas of one PostgreSQL database.

    Attributes:
        postgres_url: the one database; empty for files.
        files: for each service its file; empty on PostgreSQL.
    """

    postgres_url: str
    files: dict[str, Path]

    @property
    def kind(self) -> str:
        """What the manifest calls it."""
        return "postgresql" if self.postgres_url else "sqlite"

    def url(self, service: str) -> str:
        """Return the URL of a service's database, for `Database`."""
        return self.postgres_url or f"sqlite+aiosqlite:///{self.files[service]}"

    def schema(self, service: str) -> str:
        """Return the schema of a service; empty for a file."""
        return service if self.postgres_url else ""


def databases_of(settings: Settings, services: Sequence[Service]) -> Databases:
    """Return where the databases are.

    Raises:
        FailedPrecondition: they are in several places, of which no one moment can be had.
    """
    urls = {
        service.name: (settings.value(f"{service.name}.database_url") or settings.core.database_url).reveal()
        for service in services
    }
    if not any(urls.values()):
        files = {name: settings.service_dir(name) / f"{name}.sqlite3" for name in urls}
        return Databases("", files)
    found = set(urls.values())
    if len(found) > 1 or not postgres_driver.is_postgres(make_url(next(iter(found)))):
        raise FailedPrecondition(
            "A backup needs all services in one PostgreSQL database, or all in SQLite files of the data folder: "
            "of several databases no one moment can be had. Back them up with their own tools, all services stopped."
        )
    return Databases(found.pop(), {})
