"""What processes on this machine were promised of a device and have not taken yet, so that none is promised it twice.

Two that read the same free memory in one instant would both be let in. So they take turns: whoever reads, decides and
writes down what it was promised holds the lock of the device meanwhile. A promise is a file that its process keeps
locked, and is as long, in bytes, as the promise is in MiB: a length is read whole or not at all. When a process dies
the kernel lets its locks go, and with them its turn and its promise; the next one removes the file.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from atelier_worker.engine import EngineError
from service_kit.ids import new_id
from service_kit.units import MIB

# A turn takes milliseconds, or what evicting a model takes; after so long its holder hangs.
TURN_LIMIT_S = 10.0
_LOOK_AGAIN_S = 0.02
_LOCK = "turn"

_shared: list[Path] = []


def share(folder: Path) -> None:
    """Count the promises of this process, from now on, with those of all that share the folder."""
    _shared[:] = [folder]


def promises_of(device: str) -> Promises:
    """Return the promises of a device (`cuda:0`), this process's own alone unless they are shared."""
    return Promises(_shared[0] / device.replace(":", "-") if _shared else None)


class Promises:
    """The promises of one device. `turn` may be called from any thread, `keep` by one at a time."""

    def __init__(self, folder: Path | None, *, turn_limit_s: float = TURN_LIMIT_S) -> None:
        """Share `folder`, which need not be there; None counts for nobody else, and nobody else for it."""
        self._folder = folder
        self._turn_limit_s = turn_limit_s
        self._mine: tuple[Path, int] | None = None

    @contextmanager
    def turn(self, check: Callable[[], None]) -> Iterator[int]:
        """Hold the device's turn for a block, and yield the bytes that were promised to other processes.

        Read what the device has free inside of it, and `keep` what was promised before it ends. `check` is called
        while another process has its turn, and raises to end the waiting.

        Raises:
            EngineError: another process keeps its turn, or the folder cannot be used; retryable.
        """
        if self._folder is None:
            yield 0
            return
        try:
            lock = self._wait_for_turn(self._folder, check)
        except OSError as error:
            raise _unusable(error) from error
        try:
            try:
                self._begin(self._folder)
                others = sum(self._lengths(self._folder)) * MIB
            except OSError as error:
                raise _unusable(error) from error
            yield others
        finally:
            os.close(lock)

    def keep(self, size_bytes: int) -> None:
        """Say what this process was promised and has not taken; only in a turn may it be more than before."""
        if self._mine is not None:
            os.ftruncate(self._mine[1], -(-size_bytes // MIB))

    def _wait_for_turn(self, folder: Path, check: Callable[[], None]) -> int:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        deadline = time.monotonic() + self._turn_limit_s
        while (lock := _locked(folder / _LOCK)) is None:
            check()
            if time.monotonic() >= deadline:
                raise EngineError(
                    f"another engine has been taking memory of the device for {self._turn_limit_s:g} seconds and does "
                    "not say how much; try again later",
                    retryable=True,
                )
            time.sleep(_LOOK_AGAIN_S)
        return lock

    def _begin(self, folder: Path) -> None:
        """Have a file of this process's own. In a turn, so that nobody finds it before it is locked."""
        if self._mine is None:
            path = folder / new_id()
            descriptor = _locked(path)
            self._mine = (path, descriptor) if descriptor is not None else None

    def _lengths(self, folder: Path) -> Iterator[int]:
        """Yield the promises of others that live, and remove those of the dead."""
        mine = self._mine[0].name if self._mine is not None else ""
        for file in folder.iterdir():
            if file.name in (_LOCK, mine):
                continue
            descriptor = _locked(file)
            if descriptor is None:
                yield file.stat().st_size
            else:
                file.unlink()
                os.close(descriptor)


def _locked(file: Path) -> int | None:
    """Open a file, lock it and return its descriptor; None when another holds its lock."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _unusable(error: OSError) -> EngineError:
    sentence = f"the worker cannot write down who was promised memory ({error.strerror}); try again later"
    return EngineError(sentence, retryable=True)
