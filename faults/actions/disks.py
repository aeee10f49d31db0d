"""A full disk: spool and blobs of the asset services lie on small file systems of their own, filled and freed."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
from pathlib import Path

from faults.field import Field
from faults.schedule import FaultPlan

# Far more than a schedule stores, so that only the filler fills it.
_SIZE = "96m"
_FILLER = ".filler"
_CHUNK_BYTES = 1 << 20


class NoVolume(Exception):
    """A file system cannot be mounted here; the message says what is needed."""


def folders(data: Path) -> list[Path]:
    """Return the folders of the asset services: the spool's and the blobs'."""
    return [data / "asset", data / "blobs"]


def mount(data: Path) -> None:
    """Give each folder of the asset services a small file system. Raises NoVolume."""
    for folder in folders(data):
        folder.mkdir(parents=True, exist_ok=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE},mode=0700", "atelier-faults", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            why = done.stderr.strip()
            raise NoVolume(f"The fault full_disk mounts a small tmpfs, which needs root and the right to mount: {why}")


def unmount(data: Path) -> None:
    """Undo `mount`; folders that are not mounted are left alone."""
    for folder in folders(data):
        if folder.is_mount():
            subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)


async def fill(field: Field, fault: FaultPlan) -> str:
    """Fill the disk of the spool, of the blobs, or both, and free it after a while."""
    spool, blobs = folders(field.cluster.data)
    full = ([spool], [blobs], [spool, blobs])[fault.target % 3]
    try:
        for folder in full:
            await asyncio.to_thread(_fill, folder / _FILLER)
        await asyncio.sleep(fault.seconds)
    finally:
        for folder in full:
            (folder / _FILLER).unlink(missing_ok=True)
    return " and ".join(folder.name for folder in full)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        size = _CHUNK_BYTES
        while size:
            try:
                file.write(os.urandom(16) * (size // 16 or 1))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                size //= 2
