"""Locks of uploads: of several that somebody has at once none stays behind."""

from __future__ import annotations

import errno
import fcntl
from pathlib import Path

import pytest

from asset_service import locks as locks_module
from asset_service.locks import UploadLocks


async def test_one_that_cannot_be_freed_keeps_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locks, another = UploadLocks(tmp_path / "locks"), UploadLocks(tmp_path / "locks")
    stuck = {locks_module._place(name): name for name in ("a", "b")}
    take_or_free = locks._set

    def broken(place: int, kind: int) -> bool:
        if kind == fcntl.F_UNLCK and place in stuck:
            raise OSError(errno.ENOLCK, f"{stuck[place]} cannot be freed")
        return take_or_free(place, kind)

    monkeypatch.setattr(locks, "_set", broken)
    try:
        with pytest.raises(OSError, match="a cannot be freed"):
            async with locks.hold_all(["c", "a", "b", "d"]):
                pass
        # Within the process all are free, and between processes those that could be freed.
        assert locks._locks == {}
        for name in ("c", "d"):
            async with another.hold(name, patient=False):
                pass
        async with locks.hold("a", patient=False):
            monkeypatch.undo()
    finally:
        locks.close()
        another.close()
