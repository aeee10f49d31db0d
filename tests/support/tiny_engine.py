"""An engine for tests of the system: tiny pictures in many quick steps, so that there is something to interrupt."""

from __future__ import annotations

import struct
import time
import zlib
from collections.abc import Mapping
from pathlib import Path

from atelier_worker.engine import Context, Task


class TinyEngine:
    """Makes a picture of one colour per output, or says the prompt again. Options: `steps`, `step_delay` in seconds."""

    name = "tiny"
    concurrency = 2

    def __init__(self, options: Mapping[str, str]) -> None:
        """Take the steps of each output and how long each takes."""
        self._steps = int(options.get("steps", "6"))
        self._delay_s = float(options.get("step_delay", "0.002"))

    def run(self, task: Task, context: Context) -> None:
        """Do one stage."""
        if task.stage == "enhance":
            for word in f"{task.prompt} in soft morning light".split():
                context.write(f"{word} ")
            return
        for index in task.indexes:
            for step in range(1, self._steps + 1):
                time.sleep(self._delay_s)
                context.progress(step, self._steps, asset_index=index)
            path = Path(context.workdir) / f"{index}.png"
            path.write_bytes(png(task.seed + index))
            context.deliver(index, path)


def png(seed: int, side: int = 16) -> bytes:
    """Return a PNG of one colour that depends on the seed."""
    colour = bytes((seed * 37 % 256, seed * 91 % 256, seed * 11 % 256))
    rows = b"".join(b"\0" + colour * side for _ in range(side))
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
