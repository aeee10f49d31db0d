"""One moment of several SQLite files that are in use, copied without holding anybody up."""

from __future__ import annotations

import hashlib
import os
import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from service_kit.backup.manifest import StoredFile, sync_folder
from service_kit.errors import FailedPrecondition, ResourceExhausted

_WAIT_S = 10.0
_PIECE = 1 << 20


def copy_at_one_moment(files: Mapping[str, Path], folder: Path) -> dict[str, StoredFile]:
    """Copy SQLite files as they all were at one moment, into a folder. Returns the copies.

    For some milliseconds nobody writes to any of them; then each is read as it was, while others go on. What was
    committed by one service and not yet told to another is as it would be after a crash of all of them.

    Raises:
        ResourceExhausted: somebody wrote for too long.
        FailedPrecondition: a file is damaged.
    """
    copies: dict[str, StoredFile] = {}
    with _one_moment(files) as readers:
        for name, reader in readers.items():
            target = folder / f"{name}.sqlite3"
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            with closing(sqlite3.connect(target)) as copy:
                reader.backup(copy)
                problem = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
                if problem != "ok":
                    raise FailedPrecondition(f"The database of the {name} service is damaged: {problem}.")
            copies[name] = stored(target, folder)
    sync_folder(folder)
    return copies


@contextmanager
def _one_moment(files: Mapping[str, Path]) -> Iterator[dict[str, sqlite3.Connection]]:
    """Give connections that all read the same moment."""
    with ExitStack() as stack:
        readers: dict[str, sqlite3.Connection] = {}
        with ExitStack() as writers:
            for path in files.values():
                writer = writers.enter_context(closing(_connect(path)))
                try:
                    writer.execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError as error:
                    raise ResourceExhausted(f"{path.name} was written to for {_WAIT_S:g} s; try again.") from error
            for name, path in files.items():
                readers[name] = stack.enter_context(closing(_connect(path)))
                readers[name].execute("BEGIN")
                # A transaction begins to see at its first statement.
                readers[name].execute("SELECT count(*) FROM sqlite_master").fetchone()
        yield readers


def _connect(path: Path) -> sqlite3.Connection:
    # Opened as it is: a file that is not there is not made.
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=_WAIT_S, isolation_level=None)


def put_back(source: Path, target: Path) -> None:
    """Put a copy in its place, as a database that never was there before: watchers' cursors are not its own."""
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    with closing(sqlite3.connect(source)) as origin, closing(sqlite3.connect(partial)) as copy:
        origin.backup(copy)
        copy.execute("UPDATE event_source SET epoch = ?", (secrets.token_hex(8),))
        if copy.execute("SELECT 1 FROM sqlite_master WHERE name = 'deletion_pause'").fetchone():
            copy.execute("DELETE FROM deletion_pause")
        copy.commit()
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(target)
    sync_folder(target.parent)


def stored(path: Path, folder: Path) -> StoredFile:
    """Bring a file to the disk and return what it is."""
    digest = hashlib.sha256()
    size_bytes = 0
    with path.open("rb") as file:
        os.fsync(file.fileno())
        while piece := file.read(_PIECE):
            digest.update(piece)
            size_bytes += len(piece)
    return StoredFile(path.relative_to(folder).as_posix(), size_bytes, digest.hexdigest())


def check_stored(folder: Path, file: StoredFile) -> None:
    """Raise FailedPrecondition unless a file of a snapshot is as it was written."""
    path = folder / file.path
    try:
        found = stored(path, folder)
    except OSError as error:
        raise FailedPrecondition(f"{path} of the backup cannot be read: {error.strerror}.") from error
    if found != file:
        raise FailedPrecondition(f"{path} of the backup is not what was written: it is damaged.")
