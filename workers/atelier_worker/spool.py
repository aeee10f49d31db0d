"""The worker's folder: its lock, its id, outcomes that nobody has acknowledged, and the folders of running tasks."""

from __future__ import annotations

import itertools
import math
import os
import re
import shutil
import socket
import time
from pathlib import Path

from atelier_worker.journal import Journal, flush_folder
from service_kit.errors import FailedPrecondition
from service_kit.folder_lock import FolderLock
from service_kit.ids import new_id
from service_kit.settings import SettingsError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MOST_UNNAMED = 1000
_LEAST_FREE_BYTES = 16 << 20
_ROOM_IS_KNOWN_S = 0.5


class Spool:
    """Files of one worker, held by one process at a time. Everything here blocks; the files are small."""

    def __init__(self, folder: Path) -> None:
        """Prepare a folder; `open` takes it."""
        self._folder = folder
        self._outcomes = folder / "outcomes"
        self._tasks = folder / "tasks"
        self._lock = FolderLock(folder, "worker")
        # What a killed process left running may still write to folders of its own.
        self._unique = new_id()
        self._numbers = itertools.count(1)
        self._has_room = True
        self._look_again_at = -math.inf

    def open(self) -> None:
        """Take the folder and clear what a killed process left of its tasks.

        Raises:
            FailedPrecondition: another worker has it.
        """
        # What people ask for and get is in it, also while it is made.
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock.acquire()
        shutil.rmtree(self._tasks, ignore_errors=True)
        self._tasks.mkdir(mode=0o700, exist_ok=True)
        self._outcomes.mkdir(exist_ok=True)
        for unfinished in self._outcomes.glob(".*.new"):
            # Its process died while it wrote it.
            unfinished.unlink(missing_ok=True)

    def close(self) -> None:
        """Let the folder go."""
        self._lock.release()

    def worker_id(self, name: str) -> str:
        """Return the id of the worker, the same after a restart: its name, else one that this folder remembers."""
        if name:
            return name
        file = self._folder / "worker_id"
        if not file.exists():
            host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname())[:40] or "worker"
            _write(file, f"{host}-{new_id()[-8:]}".encode())
        return file.read_text("utf-8").strip()

    def task_dir(self) -> Path:
        """Return where the folder of one task will be, if it needs one: whoever writes there makes it."""
        return self._tasks / f"{self._unique}-{next(self._numbers)}"

    def new_task_dir(self) -> Path:
        """Make an empty folder for one task."""
        folder = self.task_dir()
        folder.mkdir()
        return folder

    def open_journal(self) -> Journal:
        """Read the outcomes that an earlier process was not told the fate of, and keep more beside them."""
        return Journal(self._outcomes)

    def has_room(self) -> bool:
        """Tell whether the disk has room for another task, as it was a moment ago.

        Small outputs fit; large ones fail and are tried again.
        """
        now = time.monotonic()
        if now >= self._look_again_at:
            self._look_again_at = now + _ROOM_IS_KNOWN_S
            try:
                self._has_room = shutil.disk_usage(self._folder).free >= _LEAST_FREE_BYTES
            except OSError:
                self._has_room = False
        return self._has_room


def open_spool(base: Path, name: str, folder: str = "") -> Spool:
    """Take the folder of a worker: `folder`, or in `base` that of its name, or the first that no other worker holds.

    Raises:
        SettingsError: the name cannot be one.
        FailedPrecondition: another worker holds the folder.
    """
    if name and not _NAME.fullmatch(name):
        raise SettingsError(
            f"worker.name (or ATELIER_WORKER_NAME) cannot be {name!r}: "
            "it takes 1 to 64 letters, digits, dots, underscores and hyphens."
        )
    if folder or name:
        spool = Spool(Path(folder) if folder else base / name)
        spool.open()
        return spool
    for number in range(1, _MOST_UNNAMED):
        spool = Spool(base / f"unnamed-{number}")
        try:
            spool.open()
        except FailedPrecondition:
            continue
        return spool
    raise FailedPrecondition(f"{_MOST_UNNAMED} workers without a name run here; give this one a worker.name.")


def _write(file: Path, content: bytes) -> None:
    """Write a file that appears under its name when its bytes are on disk."""
    temporary = file.with_name(f".{file.name}.new")
    with temporary.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(file)
    flush_folder(file.parent)
