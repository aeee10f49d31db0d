"""What holds for every test: no setting of the shell leaks in, generated examples are the same, and a PostgreSQL."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

import hypothesis
import pytest
from xdist.remote import Producer
from xdist.scheduler.loadscope import LoadScopeScheduling
from xdist.workermanage import WorkerController

from tests.support.gcs import CREDENTIALS_ENV, EMULATOR_ENV, emulator, make_buckets, write_key_file
from tests.support.hanging import pytest_timeout_set_timer  # noqa: F401 - a hook
from tests.support.postgres import Databases, NoPostgres, any_server

hypothesis.settings.register_profile("atelier", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("atelier")

PATIENTLY = "%20".join(
    f"-c%20{name}%3D60s" for name in ("lock_timeout", "statement_timeout", "idle_in_transaction_session_timeout")
)


class ByFile(LoadScopeScheduling):  # type: ignore[misc]  # it comes without types
    """Keeps the tests of a file in one process, for what they share; and all of the storage, which count together."""

    def _split_scope(self, nodeid: str) -> str:
        """Return what a test is to be run in one process with."""
        file = nodeid.partition("::")[0]
        return "tests/storage" if file.startswith("tests/storage/") else file

    def remove_node(self, node: WorkerController) -> str | None:
        """Give what a process left undone to others, but for the test that ended it; return that.

        The base class gives that one out again, and then waits for ever for work that nobody has.
        """
        units = self.assigned_work.pop(node)
        undone = [test for unit in units.values() for test, done in unit.items() if not done]
        for scope, unit in units.items():
            if rest := {test: False for test in unit if test in undone[1:]}:
                self.workqueue[scope] = rest
        for other in self.assigned_work:
            self._reschedule(other)
        return undone[0] if undone else None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    """Share the tests out among the processes of `make test`."""
    return ByFile(config, log)


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


@pytest.fixture(scope="session")
def gcs_emulator() -> Iterator[str]:
    """Give one emulator of Google Cloud Storage to all tests; in it a copy of 256 KiB and more takes several calls."""
    with emulator("--rewrite-bytes", str(256 << 10)) as url:
        yield url


@pytest.fixture(scope="session")
def gcs_key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the key file of a service account."""
    return write_key_file(tmp_path_factory.mktemp("gcs") / "key.json")


@pytest.fixture
def gcs_url(gcs_emulator: str, gcs_key_file: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give empty buckets in the emulator, as `blobs.url`."""
    monkeypatch.setenv(EMULATOR_ENV, gcs_emulator)
    monkeypatch.setenv(CREDENTIALS_ENV, str(gcs_key_file))
    prefix = f"t{secrets.token_hex(4)}"
    make_buckets(gcs_emulator, prefix)
    return f"gs://{prefix}"


@pytest.fixture
def postgres_url(postgres: Databases) -> Iterator[str]:
    """Give an empty database."""
    url = postgres.create(migrated=False)
    yield url
    postgres.drop(url)


@pytest.fixture
def migrated_postgres_url(postgres: Databases) -> Iterator[str]:
    """Give a database with the schemas of all services.

    Who stands still in a transaction is waited for: a busy machine stops the tests for seconds, and what that breaks
    off is no fault of the code. What the limits are otherwise is tested in the kit.
    """
    url = postgres.create()
    yield f"{url}?options={PATIENTLY}"
    postgres.drop(url)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    """Give what `core.database_url` is told, once for each database: empty for SQLite, and a migrated PostgreSQL."""
    return "" if request.param == "sqlite" else str(request.getfixturevalue("migrated_postgres_url"))
