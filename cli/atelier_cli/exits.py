"""Exit codes, and the sentences and codes that errors end with."""

from __future__ import annotations

import sys
from typing import Any

from atelier_cli.terminal import visible

OK = 0
JOB_FAILED = 1
USAGE = 2
UNREACHABLE = 3
REFUSED = 4
TIMED_OUT = 5
INCOMPLETE = 6
FAULT = 70  # EX_SOFTWARE of sysexits.h: the command line itself is broken.
INTERRUPTED = 130

_START_HINT = "Start one with `atelier up`, or name another with --url or ATELIER_CLIENT_URL."
_KEY_HINT = "Give a key with --key-file, ATELIER_CLIENT_KEY or ATELIER_CLIENT_KEY_FILE."


class UsageError(Exception):
    """What was asked cannot be done as it was asked; the message is a sentence."""


class Ended(Exception):
    """The command is over with this exit code; the message, if any, is for stderr."""

    def __init__(self, code: int, message: str = "") -> None:
        super().__init__(message)
        self.code = code


def complain(message: str) -> None:
    """Print one line on stderr."""
    print(visible(message), file=sys.stderr, flush=True)


def explain(error: BaseException) -> int | None:
    """Print what an expected error says and return its exit code; None for an error that nobody expected."""
    if isinstance(error, Ended):
        if str(error):
            complain(str(error))
        return error.code
    if isinstance(error, UsageError):
        complain(f"atelier: {error}")
        return USAGE
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        complain(f"atelier: {where}{error.strerror or error}")
        return USAGE
    for module, explain_one in (
        ("service_kit.settings", _settings),
        ("service_kit.errors", _kit),
        ("atelier_client", _client),
    ):
        loaded = sys.modules.get(module)  # An error of a module that was never imported cannot have come.
        if loaded is not None and (code := explain_one(loaded, error)) is not None:
            return code
    return None


def _settings(module: Any, error: BaseException) -> int | None:
    if not isinstance(error, module.SettingsError):
        return None
    complain(f"atelier: {error}")
    return USAGE


def _kit(module: Any, error: BaseException) -> int | None:
    if not isinstance(error, module.AtelierError):
        return None
    complain(f"atelier: {error.message}")
    return USAGE


def _client(module: Any, error: BaseException) -> int | None:
    if not isinstance(error, module.AtelierError):
        return None
    complain(f"atelier: {error}")
    for problem in error.fields:
        if f"{problem.field} {problem.message}" not in str(error):
            complain(f"  {problem.field}: {problem.message}")
    if isinstance(error, module.JobFailed):
        return JOB_FAILED
    if isinstance(error, module.Timeout):
        return TIMED_OUT
    if isinstance(error, (module.Unreachable, module.Unavailable, module.BadReply)):
        complain(f"  {_START_HINT}")
        return UNREACHABLE
    if isinstance(error, module.NotAuthenticated):
        complain(f"  {_KEY_HINT}")
    if error.request_id and (error.http_status or 0) >= 500:
        complain(f"  The server's log has more about request {error.request_id}.")
    return REFUSED
