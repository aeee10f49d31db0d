"""What a disk or a database answers when it cannot go on, as sentences: full, damaged, out of reach, too busy."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from service_kit.errors import Aborted, AtelierError, FailedPrecondition, ResourceExhausted, Unavailable

RETRY_AFTER = timedelta(seconds=30)

_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})
_FULL = frozenset({sqlite3.SQLITE_FULL})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_UNUSABLE = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PERM})
_PRIMARY_CODE = 0xFF

_SOON = timedelta(seconds=1)
# Codes of PostgreSQL, appendix A of its manual.
_PG_FULL = frozenset({"53100"})
_PG_CONFLICT = frozenset({"40001", "40P01"})
_PG_TOO_MUCH = frozenset({"53200", "53300"})
_PG_TOOK_TOO_LONG = frozenset({"57014", "55P03", "25P03", "25P04"})
# Its shut-down and start-up.
_PG_OUT_OF_REACH = frozenset({"57P01", "57P02", "57P03", "57P05"})
_PG_CONNECTION_CLASS = "08"


def is_full(error: BaseException) -> bool:
    """Tell whether an error only says that the disk is full."""
    if isinstance(error, OSError):
        return error.errno in _FULL_ERRNOS
    return _sqlite_code(error) in _FULL or _postgres_code(error) in _PG_FULL


def disk_full() -> Unavailable:
    """Return what a client hears of a full disk. It tells no path."""
    return Unavailable(
        "The disk of this service is full: nothing was changed. Repeat when the operator has made room.",
        retry_after=RETRY_AFTER,
    )


def postgres_error(error: BaseException) -> AtelierError | None:
    """Return what a client hears of an error that repeating may cure; None for any other."""
    if isinstance(error, PoolTimeoutError):
        return ResourceExhausted("The database is busy; repeat in a moment.", retry_after=_SOON)
    if not isinstance(error, DBAPIError):
        return None
    code = _postgres_code(error)
    if code in _PG_FULL:
        return disk_full()
    if code in _PG_CONFLICT:
        return Aborted("Something else changed the same rows at the same moment; repeat.", retry_after=_SOON)
    if code in _PG_TOO_MUCH:
        return ResourceExhausted("The database has no room for more at the moment; repeat.", retry_after=_SOON)
    if code in _PG_TOOK_TOO_LONG:
        return Unavailable("The database took too long; repeat in a moment.", retry_after=_SOON)
    if error.connection_invalidated or code in _PG_OUT_OF_REACH or code.startswith(_PG_CONNECTION_CLASS):
        return Unavailable("The database cannot be reached at the moment; repeat.", retry_after=_SOON)
    # libpq gives no code when there was nobody to answer.
    if not code and isinstance(error, OperationalError):
        return Unavailable("The database cannot be reached at the moment; repeat.", retry_after=_SOON)
    return None


@contextmanager
def opening_database(name: str) -> Iterator[None]:
    """Turn what a database that cannot be used answers at the start into a sentence for the operator.

    Raises:
        FailedPrecondition: the disk is full, or the file called `name` is damaged or cannot be written.
        Unavailable: PostgreSQL cannot be reached, or lets nobody in; with its own words, which clients do not see.
    """
    try:
        yield
    except Unavailable as error:
        cause = error.__cause__
        words = str(cause.orig).strip().replace("\n", " ") if isinstance(cause, DBAPIError) else error.message
        raise Unavailable(f"The database {name} cannot be used: {words}", retry_after=error.retry_after) from error
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


def _postgres_code(error: BaseException) -> str:
    """Return PostgreSQL's SQLSTATE; empty for an error of something else."""
    code = getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else None
    return code if isinstance(code, str) else ""
