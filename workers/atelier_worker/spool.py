"""The worker's folder: its lock, its id, outcomes that nobody has acknowledged, and the folders of running tasks."""

from __future__ import annotations

import math
import os
import re
import shutil
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from google.protobuf.message import DecodeError

from atelier.worker.v1 import worker_service_pb2 as pb
from service_kit.errors import FailedPrecondition
from service_kit.folder_lock import FolderLock
from service_kit.ids import new_id
from service_kit.settings import SettingsError
from service_kit.telemetry import get_logger

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MOST_UNNAMED = 1000
_LEAST_FREE_BYTES = 16 << 20
_ROOM_IS_KNOWN_S = 0.5

log = get_logger(__name__)


class Spool:
    """Files of one worker, held by one process at a time. Everything here blocks; the files are small."""

    def __init__(self, folder: Path) -> None:
        """Prepare a folder; `open` takes it."""
        self._folder = folder
        self._outcomes = folder / "outcomes"
        self._tasks = folder / "tasks"
        self._lock = FolderLock(folder, "worker")
        self._has_room = True
        self._look_again_at = -math.inf

    def open(self) -> None:
        """Take the folder and clear what a killed process left of its tasks.

        Raises:
            FailedPrecondition: another worker has it.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock.acquire()
        shutil.rmtree(self._tasks, ignore_errors=True)
        self._tasks.mkdir(exist_ok=True)
        self._outcomes.mkdir(exist_ok=True)
        for unfinished in self._outcomes.glob(".*.new"):
            # Its process died while it wrote; the outcome was never sent, and the stage is run again.
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
            (error,) = _write([(file, f"{host}-{new_id()[-8:]}".encode())])
            if error is not None:
                raise error
        return file.read_text("utf-8").strip()

    def task_dir(self) -> Path:
        """Return where the folder of one task will be, if it needs one: whoever writes there makes it."""
        return self._tasks / new_id()

    def new_task_dir(self) -> Path:
        """Make an empty folder for one task."""
        folder = self.task_dir()
        folder.mkdir()
        return folder

    def load_outcomes(self) -> list[pb.Outcome]:
        """Return the outcomes that an earlier process was not told the fate of, oldest first."""
        found: list[pb.Outcome] = []
        for file in sorted(self._outcomes.glob("*.outcome")):
            outcome = _outcome_in(file)
            if outcome is None:
                # Written atomically, so the disk itself has lost it: keep it for a person, and go on.
                log.error("outcome_unreadable", file=file.name)
                file.replace(file.with_suffix(".unreadable"))
            else:
                found.append(outcome)
        return found

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

    def change(
        self, keep: Sequence[pb.Outcome], forget: Sequence[str]
    ) -> tuple[list[OSError | None], list[OSError | None]]:
        """Write outcomes so that neither a crash nor a power cut loses them, and remove others by completion id.

        Returns:
            For each of both, in order, why it was not done, or None.
        """
        contents = [(self._file(outcome.completion_id), outcome.SerializeToString()) for outcome in keep]
        kept = _write(contents)
        return kept, [self._remove(completion_id) for completion_id in forget]

    def _remove(self, completion_id: str) -> OSError | None:
        try:
            self._file(completion_id).unlink(missing_ok=True)
        except OSError as error:
            return error
        return None

    def _file(self, completion_id: str) -> Path:
        return self._outcomes / f"{completion_id}.outcome"


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


def _outcome_in(file: Path) -> pb.Outcome | None:
    """Return the outcome of a file; None when it is empty, cut off, or another one than its name says."""
    try:
        outcome = pb.Outcome.FromString(file.read_bytes())
    except DecodeError:
        return None
    # Bytes that break off between two fields are a message, too, but the result is missing.
    whole = outcome.completion_id == file.stem and outcome.ref.job_id and outcome.WhichOneof("result") is not None
    return outcome if whole else None


def _write(contents: Sequence[tuple[Path, bytes]]) -> list[OSError | None]:
    """Write files of one folder, each as a whole, and flush them; return for each why it failed, or None."""
    errors: list[OSError | None] = [_write_one(file, content) for file, content in contents]
    if None not in errors:
        return errors
    try:
        _flush_folder(contents[0][0].parent)
    except OSError as error:
        return [failed or error for failed in errors]
    return errors


def _write_one(file: Path, content: bytes) -> OSError | None:
    """Write a file that appears under its name when its bytes are on disk; that it does is not flushed."""
    temporary = file.with_name(f".{file.name}.new")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    except OSError as error:
        return error
    return None


def _flush_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
