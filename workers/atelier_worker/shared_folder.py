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

from service_kit.file_copies import copy_bytes

LINK = ".link"
"""What follows the name of an offered file in that of a link that lies beside it."""

_OFFERED = re.compile(r"[0-9a-f]{32}")


def is_offered(name: str) -> bool:
    """Tell whether a service has offered a file: a name that leads nowhere else."""
    return _OFFERED.fullmatch(name) is not None


def size_to_link(path: Path, folder: Path | None) -> int:
    """Return the size of a file in bytes; 0 when there is no folder to link it into."""
    return path.stat().st_size if folder is not None and folder.is_dir() else 0


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
