"""What an import has done, on the disk: one line of JSON for each file, so that the next run passes it over."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_VERSION = 1


class ProgressFile:
    """Remembers which files were taken over, by where they were and by size and time, so that no byte is read again.

    It is a shortcut, not the truth: without it every file is described again, and found to be there.
    """

    def __init__(self, path: Path, about: Mapping[str, str]) -> None:
        """Choose the file; `about` says what is brought in by whom: another import's file is not read."""
        self._path = path
        self._about = {"version": _VERSION, **about}
        self._done: set[tuple[str, int, int]] = set()

    def __enter__(self) -> Self:
        """Read what is there, and open it to add to it. Raises OSError."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        whole = self._read()
        self._file = self._path.open("a" if whole else "w", encoding="utf-8")
        if not whole:
            self._write(self._about)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def is_done(self, where: str, stat: os.stat_result) -> bool:
        """Tell whether a file was taken over as it is now."""
        return (where, stat.st_size, stat.st_mtime_ns) in self._done

    def done(self, where: str, stat: os.stat_result, asset_id: str) -> None:
        """Remember that a file was taken over."""
        self._done.add((where, stat.st_size, stat.st_mtime_ns))
        self._write({"where": where, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "asset_id": asset_id})

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def _read(self) -> bool:
        """Read the lines of this import; returns False when there are none to add to."""
        try:
            lines = self._path.read_text("utf-8").split("\n")
        except FileNotFoundError:
            return False
        # A run that was killed may have left half of a line.
        found = [line for text in lines if (line := _parsed(text)) is not None]
        if not found or found[0] != self._about:
            return False
        for line in found[1:]:
            if all(name in line for name in ("where", "size", "mtime_ns")):
                self._done.add((line["where"], line["size"], line["mtime_ns"]))
        if lines[-1]:
            with self._path.open("a", encoding="utf-8") as file:
                file.write("\n")
        return True


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) else None
