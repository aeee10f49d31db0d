"""The lock on a service's folder: two processes never open the same files, and the second one names the first."""

from __future__ import annotations

import fcntl
import os
from datetime import UTC, datetime
from pathlib import Path

from service_kit.clock import rfc3339
from service_kit.errors import FailedPrecondition


class FolderLock:
    """An exclusive lock on a folder, by flock on its file `LOCK`; the kernel releases it when the process dies."""

    def __init__(self, folder: Path, holder: str) -> None:
        """Prepare a lock; `holder` is the service's name, written into the file for people."""
        self._path = folder / "LOCK"
        self._holder = holder
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            FailedPrecondition: somebody else has it; the message names the process and since when.
        """
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode("utf-8", "replace").strip() or "another process"
            os.close(descriptor)
            raise FailedPrecondition(
                f"The folder {self._path.parent} is in use by {holder}. "
                "Stop it, or choose another folder with ATELIER_DATA_DIR."
            ) from None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{self._holder}, process {os.getpid()}, started {rfc3339(datetime.now(UTC))}\n".encode())
        self._descriptor = descriptor

    def release(self) -> None:
        """Give the lock back; nothing happens without one."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
