"""The folders of a blob store in a directory: made, synced, listed and removed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service_kit.blobs import RESERVED_SUFFIX

DRAFTS = ".tmp"
"""Where in a bucket blobs lie while they are written."""


def clear_drafts(drafts: Path, before: float) -> int:
    """Remove the folders to which nothing was added since a moment, in seconds since 1970. Returns how many."""
    removed = 0
    for draft in drafts.iterdir() if drafts.is_dir() else ():
        try:
            touched = max(path.stat().st_mtime for path in (draft, *draft.iterdir()))
        except (FileNotFoundError, NotADirectoryError):
            # Published, or removed, in this moment.
            continue
        if touched < before:
            shutil.rmtree(draft, ignore_errors=True)
            removed += 1
    return removed


def keys(root: Path, prefix: str) -> Iterator[str]:
    """Give the keys of a bucket that start with a prefix, in any order."""
    for folder, names, files in os.walk(root):
        below = Path(folder).relative_to(root).as_posix()
        start = "" if below == "." else below + "/"
        if not start and DRAFTS in names:
            names.remove(DRAFTS)
        for name in (*names, *files):
            if name.endswith(RESERVED_SUFFIX):
                key = start + name.removesuffix(RESERVED_SUFFIX)
                if key.startswith(prefix):
                    yield key
        names[:] = [name for name in names if not name.endswith(RESERVED_SUFFIX)]


def remove_empty(folder: Path, top: Path) -> None:
    """Remove a folder and those above it that hold nothing: their names say whose blobs were there."""
    while folder != top:
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent


def make_folders(folder: Path, known: Path) -> None:
    """Make a folder and its parents up to one that is known to exist, each synced into its parent."""
    if folder.is_dir():
        return
    if folder != known:
        make_folders(folder.parent, known)
    folder.mkdir(mode=0o700, exist_ok=True, parents=folder == known)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Have on the disk which names a folder has."""
    with opened(folder) as descriptor:
        os.fsync(descriptor)


@contextmanager
def opened(folder: Path) -> Iterator[int]:
    """Give a folder that is open. Raises FileNotFoundError when it is not there."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
