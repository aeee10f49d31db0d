"""What a disk or a SQLite file answers when it cannot go on, as sentences: full, damaged, or not to be written."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from sqlalchemy.exc import DBAPIError

from service_kit.errors import FailedPrecondition, Unavailable

RETRY_AFTER = timedelta(seconds=30)

_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})
_FULL = frozenset({sqlite3.SQLITE_FULL})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_UNUSABLE = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PERM})
_PRIMARY_CODE = 0xFF


def is_full(error: BaseException) -> bool:
    """Tell whether an error only says that the disk is full."""
    if isinstance(error, OSError):
        return error.errno in _FULL_ERRNOS
    return _sqlite_code(error) in _FULL


def disk_full() -> Unavailable:
    """Return what a client hears of a full disk. It tells no path."""
    return Unavailable(
        "The disk of this service is full: nothing was changed. Repeat when the operator has made room.",
        retry_after=RETRY_AFTER,
    )


@contextmanager
def opening_database(name: str) -> Iterator[None]:
    """Turn what a database that cannot be used answers at the start into a sentence for the operator.

    Raises:
        FailedPrecondition: the disk is full, or the file called `name` is damaged or cannot be written.
    """
    try:
        yield
    except DBAPIError as error:
        code = _sqlite_code(error)
        if code in _FULL:
            raise FailedPrecondition(
                f"The disk is full: make room for the database {name}, and start again."
            ) from error
        if code in _DAMAGED:
            raise FailedPrecondition(
                f"The database {name} is damaged or is no SQLite file: restore the data folder from a backup."
            ) from error
        if code in _UNUSABLE:
            raise FailedPrecondition(
                f"The database {name} cannot be opened or written: look at the disk and at who owns the file."
            ) from error
        raise


def _sqlite_code(error: BaseException) -> int | None:
    """Return SQLite's primary result code; None for an error of something else."""
    code = getattr(error.orig, "sqlite_errorcode", None) if isinstance(error, DBAPIError) else None
    return code & _PRIMARY_CODE if isinstance(code, int) else None
