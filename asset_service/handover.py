"""Large files from and for a worker on this machine, through a folder that only its user and ours can enter.

Who asks is told a name that nobody can guess, and finds an empty file of that name in the folder only if it sees the
same folder, and may write there. Into that file it writes, and we read what we have open, not what is in its place; or
it makes a hard link of its own file beside it. Nothing is followed: what lies there is taken if it is itself a file of
this user. What is measured is our own copy, which nobody else has open.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from service_kit.errors import ErrorReason, FailedPrecondition
from service_kit.file_copies import write_at
from service_kit.finishing import thread_to_its_end
from service_kit.telemetry import get_logger

log = get_logger(__name__)

LINK = ".link"
"""What follows the name of an offered file in that of a link that lies beside it."""

MOST_OF_A_JOB = 32
"""How many files may be offered for a job at a time: one more ends its oldest, whose bytes then come as messages."""

MOST = 256
"""How many files may be offered at a time. Where there are so many the next gets none: nobody's offers end for it."""

AT_ONCE = 4
"""How many calls' files are read or written over at a time: a message that asks for 8 MiB costs its sender nothing, and
more would keep threads from everything else, for the same disk."""

LIFETIME = timedelta(minutes=10)
"""How long an offered file stays."""

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# Whatever lies there: no link is followed, and nobody is waited for.
_FOUND = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_NAME = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class _Offer:
    job_id: str
    name: str
    file: int
    made_at: float


class Handover:
    """The files that are offered. One for an upload, for this process alone: another replica does not know of it."""

    def __init__(self, folder: Path, *, now: Callable[[], float] = time.monotonic) -> None:
        """Use a folder; `prepare` makes it. `now` is in seconds."""
        self._folder = folder
        self._now = now
        self._offers: dict[str, _Offer] = {}
        self._told: frozenset[str] = frozenset()
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def prepare(self) -> None:
        """Make the folder, and clear what an earlier process left there long enough ago."""
        await asyncio.to_thread(self._folder.mkdir, mode=0o700, parents=True, exist_ok=True)
        await self.clear()

    async def clear(self) -> None:
        """End the offers whose time is over, and remove whatever else has been in the folder for long enough.

        What cannot be removed, such as a folder that is not empty, is told once.
        """
        await self._end_overdue()
        left = await asyncio.to_thread(_clear, self._folder)
        for name in sorted(left - self._told):
            log.warning("handover_folder_has_something_else", name=name, why="remove it: nothing of ours is kept there")
        self._told = left

    async def close(self) -> None:
        """End all offers."""
        for upload_id in list(self._offers):
            await self.end(upload_id)

    async def offer(self, upload_id: str, job_id: str) -> str:
        """Make an empty file for the bytes of an upload. An earlier one for the upload is gone.

        Returns:
            Its name; empty where too many are offered, or none can be made: then the bytes come as messages.
        """
        await self.end(upload_id)
        await self._end_overdue()
        # A worker has one lease of a job, and its token is for nothing else: it reaches nobody else's offers.
        same = [offered for offered, offer in self._offers.items() if offer.job_id == job_id]
        for oldest in same[: max(0, len(same) + 1 - MOST_OF_A_JOB)]:
            await self.end(oldest)
        if len(self._offers) >= MOST:
            return ""
        name = secrets.token_hex(16)
        try:
            file = os.open(self._folder / name, _NEW, 0o600)
        except OSError:
            # A full disk, or a folder that somebody has removed: bytes come as messages, and say what is wrong.
            return ""
        self._offers[upload_id] = _Offer(job_id, name, file, self._now())
        return name

    def take(self, upload_id: str) -> int:
        """Return the open file of an upload, whose offer ends. The caller closes it.

        Raises:
            FailedPrecondition: `incomplete_upload`; none is offered.
        """
        offer = self._pop(upload_id)
        self._unlink(offer)
        return offer.file

    def take_link(self, upload_id: str) -> int:
        """Return the file, open, to which a link lies beside the offered one. The offer ends; the caller closes it.

        Raises:
            FailedPrecondition: `incomplete_upload`; none is offered, or what lies there is no file of this user.
        """
        offer = self._pop(upload_id)
        try:
            return _open_own(self._folder / (offer.name + LINK), os.O_RDONLY)
        except OSError:
            raise FailedPrecondition(
                "There is no link to a file beside the one that was offered; start again with the digest.",
                ErrorReason.INCOMPLETE_UPLOAD,
            ) from None
        finally:
            self._unlink(offer)
            os.close(offer.file)

    async def open_for(self, name: str) -> int | None:
        """Return, open for writing, the empty file that a worker has made under a name; None when there is none."""
        if not _NAME.fullmatch(name):
            return None
        opening = asyncio.ensure_future(asyncio.to_thread(_open_empty, self._folder / name))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            # Whoever leaves while the thread opens the file leaves nobody else to close it.
            opening.add_done_callback(_close_opened)
            raise

    async def read(self, name: str, sizes: Sequence[int]) -> list[tuple[bytes, str]]:
        """Return what a worker has written into a file of its own under a name, as files of these sizes in bytes.

        Of each its bytes and their SHA-256 in hexadecimal.

        Raises:
            FailedPrecondition: `incomplete_upload`; there is none of that name and of their size.
        """
        try:
            if _NAME.fullmatch(name):
                async with self._turns:
                    return await thread_to_its_end(_read_files, self._folder / name, sizes)
        except OSError:
            # It is told as what it looks like from here: no such file.
            log.debug("handover_not_read", exc_info=True)
        raise FailedPrecondition(
            f"No file of that name has {sum(sizes)} bytes in the folder of files that are handed over; send the bytes.",
            ErrorReason.INCOMPLETE_UPLOAD,
        )

    async def write_over(self, name: str, parts: Sequence[bytes]) -> bool:
        """Write bytes over what is in a file that a worker has made under a name. Returns False where it is not done.

        There is no such file, or no room in it.
        """
        if not _NAME.fullmatch(name):
            return False
        try:
            async with self._turns:
                # A thread that has begun goes on when the caller leaves: the worker then removes the file.
                await thread_to_its_end(_write_over, self._folder / name, parts)
        except OSError as error:
            log.debug("handover_not_written", error=type(error).__name__)
            return False
        return True

    async def end(self, upload_id: str) -> None:
        """End the offer for an upload, if there is one."""
        offer = self._offers.pop(upload_id, None)
        if offer is not None:
            # Off the event loop, for to give back what a large file takes may last; and also when the caller goes.
            await asyncio.shield(asyncio.to_thread(self._remove, offer))

    async def _end_overdue(self) -> None:
        before = self._now() - LIFETIME.total_seconds()
        for upload_id, offer in list(self._offers.items()):
            if offer.made_at < before:
                await self.end(upload_id)

    def _remove(self, offer: _Offer) -> None:
        self._unlink(offer)
        os.close(offer.file)

    def _pop(self, upload_id: str) -> _Offer:
        offer = self._offers.pop(upload_id, None)
        if offer is None:
            raise FailedPrecondition(
                "No file is offered for this upload; send its bytes with WriteUpload.", ErrorReason.INCOMPLETE_UPLOAD
            )
        return offer

    def _unlink(self, offer: _Offer) -> None:
        for name in (offer.name + LINK, offer.name):
            with suppress(OSError):
                (self._folder / name).unlink()


def _open_own(path: Path, mode: int) -> int:
    """Open what must be a file, and ours, in a folder that is ours alone.

    Who may put a name into such a folder may read and write what is ours anyway.

    Raises:
        OSError: it is not there, or something else, or others may enter the folder.
    """
    around = path.parent.stat()
    if around.st_uid != os.geteuid() or stat.S_IMODE(around.st_mode) & _OTHERS:
        raise PermissionError(errno.EPERM, "others may enter the folder")
    file = os.open(path, mode | _FOUND)
    found = os.fstat(file)
    if stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
        return file
    os.close(file)
    raise PermissionError(errno.EPERM, "not a file of this user")


def _open_empty(path: Path) -> int | None:
    try:
        file = _open_own(path, os.O_WRONLY)
    except OSError:
        return None
    found = os.fstat(file)
    if found.st_size or found.st_nlink != 1:
        # It has a second name, or bytes: then it is not a file that was made for this.
        os.close(file)
        return None
    return file


def _read_files(path: Path, sizes: Sequence[int]) -> list[tuple[bytes, str]]:
    """Read and digest files that lie in one, one behind the other. Raises OSError unless it has them all."""
    file = _open_own(path, os.O_RDONLY)
    try:
        if os.fstat(file).st_size < sum(sizes):
            raise OSError(errno.ENODATA, "it is shorter")
        found = []
        for size in sizes:
            # One read: what is digested is what is measured and stored, whoever writes meanwhile.
            data = os.read(file, size)
            if len(data) < size:
                raise OSError(errno.ENODATA, "it became shorter")
            found.append((data, hashlib.sha256(data).hexdigest()))
        return found
    finally:
        os.close(file)


def _write_over(path: Path, parts: Sequence[bytes]) -> None:
    file = _open_own(path, os.O_WRONLY)
    try:
        if os.fstat(file).st_nlink != 1:
            raise PermissionError(errno.EPERM, "it has a second name, so it was not made for this")
        offset = 0
        for part in parts:
            write_at(file, part, offset)
            offset += len(part)
    finally:
        os.close(file)


def _close_opened(opening: asyncio.Future[int | None]) -> None:
    if not opening.cancelled() and opening.exception() is None and (file := opening.result()) is not None:
        os.close(file)


def _clear(folder: Path) -> frozenset[str]:
    """Remove what is old in a folder. Returns the names of what is old and stays."""
    # Another replica may have offered the rest.
    before = time.time() - 2 * LIFETIME.total_seconds()
    try:
        left = list(folder.iterdir())
    except OSError:
        # Somebody has removed the folder: then nothing is offered, either.
        return frozenset()
    stayed = set[str]()
    for path in left:
        try:
            _remove_old(path, before)
        except FileNotFoundError:
            continue
        except OSError:
            stayed.add(path.name)
    return frozenset(stayed)


def _remove_old(path: Path, before: float) -> None:
    """Remove a file, or a folder that is empty, to which nothing was done since a moment."""
    found = path.lstat()
    # A link is as old as its file, so the file beside it tells whether anybody waits for it.
    old = not path.with_suffix("").exists() if path.suffix == LINK else found.st_mtime < before
    if old and stat.S_ISDIR(found.st_mode):
        path.rmdir()
    elif old:
        path.unlink()
