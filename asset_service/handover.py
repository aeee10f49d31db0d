"""Large files from a worker on this machine: it writes into a file that we made for it, and we copy what is there.

Who asks is told a name that nobody can guess, and finds an empty file of that name in the folder only if it sees the
same folder, and may write there. We keep that file open and read no other: no name, link or folder that somebody puts
in its place is ever followed, and what is measured is our own copy, which nobody else has open.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from service_kit.errors import ErrorReason, FailedPrecondition

MOST = 64
"""How many files may be offered at a time: one more ends the oldest, whose bytes then come as messages."""

LIFETIME = timedelta(minutes=10)
"""How long an offered file stays."""

_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class _Offer:
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

    async def prepare(self) -> None:
        """Make the folder, and clear what an earlier process left there long enough ago."""
        await asyncio.to_thread(self._folder.mkdir, mode=0o700, parents=True, exist_ok=True)
        await self.clear()

    async def clear(self) -> None:
        """End the offers whose time is over, and remove whatever else has been in the folder for long enough."""
        await self._end_overdue()
        await asyncio.to_thread(_clear, self._folder)

    async def close(self) -> None:
        """End all offers."""
        for upload_id in list(self._offers):
            await self.end(upload_id)

    async def offer(self, upload_id: str) -> str:
        """Make an empty file for the bytes of an upload. Returns its name; an earlier one for the upload is gone."""
        await self.end(upload_id)
        await self._end_overdue()
        while len(self._offers) >= MOST:
            await self.end(next(iter(self._offers)))
        name = secrets.token_hex(16)
        try:
            file = os.open(self._folder / name, _NEW, 0o600)
        except OSError:
            # A full disk, or a folder that somebody has removed: bytes come as messages, and say what is wrong.
            return ""
        self._offers[upload_id] = _Offer(name, file, self._now())
        return name

    def take(self, upload_id: str) -> int:
        """Return the open file of an upload, whose offer ends. The caller closes it.

        Raises:
            FailedPrecondition: `incomplete_upload`; none is offered.
        """
        offer = self._offers.pop(upload_id, None)
        if offer is None:
            raise FailedPrecondition(
                "No file is offered for this upload; send its bytes with WriteUpload.", ErrorReason.INCOMPLETE_UPLOAD
            )
        self._unlink(offer)
        return offer.file

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

    def _unlink(self, offer: _Offer) -> None:
        with suppress(OSError):
            (self._folder / offer.name).unlink()


def _clear(folder: Path) -> None:
    # Another replica may have offered the rest.
    before = time.time() - 2 * LIFETIME.total_seconds()
    try:
        left = list(folder.iterdir())
    except OSError:
        # Somebody has removed the folder: then nothing is offered, either.
        return
    for path in left:
        with suppress(OSError):
            if path.lstat().st_mtime < before:
                path.unlink()
