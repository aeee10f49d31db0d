"""The folder that a worker shares with an asset service on the same machine: through it files are handed over.

Every function blocks, and none believes that the folder is the service's before the service has said so.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from contextlib import suppress
from pathlib import Path
from time import sleep, time_ns
from typing import NamedTuple

from service_kit.file_copies import copy_bytes

LINK = ".link"
"""What follows the name of an offered file in that of a link that lies beside it."""

TICK_NS = 20_000_000
"""The times of files go by ticks of a kernel's clock, of 10 ms at most; with room."""

_OFFERED = re.compile(r"[0-9a-f]{32}")


def is_offered(name: str) -> bool:
    """Tell whether a service has offered a file: a name that leads nowhere else."""
    return _OFFERED.fullmatch(name) is not None


class Look(NamedTuple):
    """What of a file becomes another when the file does: which it is, how large, and when it was last written."""

    number: int
    size_bytes: int
    written_ns: int


def look(path: Path) -> Look:
    """Return what is to be seen of a file from outside."""
    found = path.stat()
    return Look(found.st_ino, found.st_size, found.st_mtime_ns)


def look_to_link(path: Path, folder: Path | None) -> Look | None:
    """Look at a file that is to be linked; None when there is no folder to link it into.

    What is written from now on is seen by another look, or it is written before this returns: the time of a file goes
    by ticks, so one that was written in this tick is waited for until the next.
    """
    if folder is None or not folder.is_dir():
        return None
    found = look(path)
    if abs(time_ns() - found.written_ns) < TICK_NS:
        sleep(TICK_NS / 1e9)
    return found


def link(path: Path, offered: Path) -> Path | None:
    """Link a file beside one that is offered. Returns the link; None when that is not there, or on another disk."""
    made = offered.with_suffix(LINK)
    if not offered.is_file():
        return None
    try:
        made.hardlink_to(path)
    except OSError:
        return None
    return made


def fill(offered: Path, path: Path) -> None:
    """Write a file into one that is there already: it has another name in any other folder.

    Raises:
        OSError: it is not there, or there is no room.
    """
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        target = os.open(offered, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            copy_bytes(source, target, os.fstat(source).st_size)
        finally:
            os.close(target)
    finally:
        os.close(source)


def make_empty(folder: Path | None) -> Path | None:
    """Make an empty file for the service to fill. Returns None when there is no folder, or no room in it."""
    if folder is None or not folder.is_dir():
        return None
    place = folder / secrets.token_hex(16)
    try:
        place.touch(mode=0o600, exist_ok=False)
    except OSError:
        return None
    return place


def move_out(place: Path, path: Path) -> int:
    """Move a file that the service has filled to where it is wanted. Returns its size in bytes.

    Raises:
        OSError: there is no room.
    """
    try:
        place.replace(path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        fill(path, place)
        remove(place)
    return path.stat().st_size


def remove(place: Path) -> None:
    """Remove what was not handed over, if it is there."""
    with suppress(OSError):
        place.unlink()
