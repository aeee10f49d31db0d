"""Where libfaketime is. `python -m faults.faketime` ends with 1 when it is not installed."""

from __future__ import annotations

import sys
from pathlib import Path

_PLACES = (
    "/usr/lib/*/faketime/libfaketime.so.1",
    "/usr/lib64/faketime/libfaketime.so.1",
    "/usr/local/lib/faketime/libfaketime.so.1",
    "/opt/homebrew/lib/faketime/libfaketime.1.dylib",
)


class NoFakeTime(Exception):
    """The library that steps clocks is not installed; the message says what to install."""


def library() -> Path:
    """Return where libfaketime is. Raises NoFakeTime."""
    for place in _PLACES:
        for found in sorted(Path("/").glob(place.removeprefix("/"))):
            return found
    raise NoFakeTime("The fault step_clock needs libfaketime: install the package libfaketime.")


def main() -> int:
    """Tell by the exit code whether the library is there."""
    try:
        library()
    except NoFakeTime:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
