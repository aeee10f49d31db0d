"""Locks of uploads: who writes the bytes of an upload, or deletes them, does so alone, whatever replica it is.

Within a process it is a lock by name. Between processes, which share the folder of the bytes, it is a lock on one byte
of one file there, at a place that follows from the name. The kernel ends it with the process that has it, and only
then: a process that stands still keeps what it was writing, so that nobody believes that a key is free on which its
bytes may still arrive.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import struct
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from service_kit.errors import Unavailable

_PLACES = 1 << 62
_FIRST_LOOK_S = 0.005
_LAST_LOOK_S = 0.1
# Locks of an open file exclude each other within a process too; where there are none, those of the process must do.
_SET_LOCK: int | None = getattr(fcntl, "F_OFD_SETLK", None)


class UploadLocks:
    """A lock for each upload that somebody is using."""

    def __init__(self, file: Path, *, wait: timedelta = timedelta(seconds=10)) -> None:
        """Use a file that all replicas share; wait that long for another one of them."""
        self._file = file
        self._wait = wait
        self._descriptor = -1
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    def close(self) -> None:
        """Close the file. Nothing may be held any more."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    @asynccontextmanager
    async def hold(self, name: str, *, patient: bool = True) -> AsyncIterator[None]:
        """Wait until the upload is free, and keep it.

        Raises:
            Unavailable: another replica works on it, for longer than we wait; at once unless `patient`.
        """
        await self._acquire(name, patient=patient)
        try:
            yield
        finally:
            self._release(name)

    @asynccontextmanager
    async def hold_all(self, names: Iterable[str]) -> AsyncIterator[None]:
        """Wait for several, each as `hold` does. Whoever else wants several asks for them in the same order: sorted.

        Raises:
            Unavailable: another replica works on one of them, for longer than we wait.
            OSError: some could not be freed, of which this is the first; all others are free.
        """
        held: list[str] = []
        try:
            for name in sorted(set(names)):
                await self._acquire(name, patient=True)
                held.append(name)
            yield
        finally:
            self._release_all(held)

    async def _acquire(self, name: str, *, patient: bool) -> None:
        lock, users = self._locks.get(name, (None, 0))
        lock = lock or asyncio.Lock()
        self._locks[name] = (lock, users + 1)
        try:
            await lock.acquire()
            try:
                if self._descriptor < 0:
                    self._descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                await self._take(_place(name), self._wait.total_seconds() if patient else 0.0)
            except BaseException:
                lock.release()
                raise
        except BaseException:
            self._leave(name)
            raise

    def _release(self, name: str) -> None:
        try:
            self._set(_place(name), fcntl.F_UNLCK)
        finally:
            self._locks[name][0].release()
            self._leave(name)

    def _release_all(self, names: Iterable[str]) -> None:
        first: Exception | None = None
        for name in names:
            try:
                self._release(name)
            except Exception as error:  # noqa: BLE001 - nobody else would free the rest, and it is told then
                first = first or error
        if first is not None:
            raise first

    def _leave(self, name: str) -> None:
        lock, users = self._locks.pop(name)
        if users > 1:
            self._locks[name] = (lock, users - 1)

    async def _take(self, place: int, wait_s: float) -> None:
        pause_s = _FIRST_LOOK_S
        while not self._set(place, fcntl.F_WRLCK):
            if wait_s <= 0:
                raise Unavailable(
                    "Another replica is working on this upload; repeat.", retry_after=timedelta(seconds=1)
                )
            await asyncio.sleep(pause_s)
            wait_s -= pause_s
            pause_s = min(2 * pause_s, _LAST_LOOK_S)

    def _set(self, place: int, kind: int) -> bool:
        """Take or free a byte of the file. Returns False when another one has it."""
        try:
            if _SET_LOCK is not None:
                fcntl.fcntl(self._descriptor, _SET_LOCK, struct.pack("hhqqi", kind, os.SEEK_SET, place, 1, 0))
            else:
                free = kind == fcntl.F_UNLCK
                fcntl.lockf(
                    self._descriptor, fcntl.LOCK_UN if free else fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place, os.SEEK_SET
                )
        except BlockingIOError:
            return False
        return True


def _place(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) % _PLACES
