"""What holds for every test: no setting of the shell leaks in, generated examples are the same, and a PostgreSQL."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

import hypothesis
import pytest

from tests.support.postgres import Databases, NoPostgres, any_server

hypothesis.settings.register_profile("atelier", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("atelier")


@pytest.fixture(autouse=True)
def _no_outside_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the `ATELIER_*` variables of the shell; a test that needs one sets it."""
    for name in [name for name in os.environ if name.startswith("ATELIER_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Databases]:
    """Give one PostgreSQL to all tests."""
    yield from databases_for_tests(os.environ)


def databases_for_tests(environ: Mapping[str, str]) -> Iterator[Databases]:
    """Give databases on a server. Where there is none, tests that need one are skipped, and fail under CI."""
    try:
        with any_server(environ) as url:
            databases = Databases(url)
            yield databases
            databases.close()
    except NoPostgres as error:
        if environ.get("CI", "").lower() not in ("", "0", "false"):
            raise
        pytest.skip(str(error))


@pytest.fixture
def postgres_url(postgres: Databases) -> Iterator[str]:
    """Give an empty database."""
    url = postgres.create(migrated=False)
    yield url
    postgres.drop(url)


@pytest.fixture
def migrated_postgres_url(postgres: Databases) -> Iterator[str]:
    """Give a database with the schemas of all services."""
    url = postgres.create()
    yield url
    postgres.drop(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Give what `core.database_url` is told, once for each database: empty for SQLite, and a migrated PostgreSQL."""
    return "" if request.param == "sqlite" else str(request.getfixturevalue("migrated_postgres_url"))
