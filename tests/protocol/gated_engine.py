"""An engine for the protocol tests: small pictures, and a named pipe at which it waits when the prompt says so."""

from __future__ import annotations

import os
import time
from pathlib import Path

from atelier_worker.engine import Context, Task
from tests.support.tiny_engine import TinyEngine

ENGINE = f"{__name__}:GatedEngine"
WAIT = "wait "


class GatedEngine(TinyEngine):
    """Makes pictures of one colour. `wait PATH` in the prompt holds it until somebody writes to the named pipe."""

    name = "gated"
    concurrency = 1
    worker_types = ("chat", "sdxl", "wan")

    def run(self, task: Task, context: Context) -> None:
        """Do one stage."""
        if task.prompt.startswith(WAIT):
            self._wait(Path(task.prompt.removeprefix(WAIT)), context)
        super().run(task, context)

    def _wait(self, path: Path, context: Context) -> None:
        """Wait at the gate; a cancelled task leaves it."""
        with open(path, "rb", opener=_without_waiting) as gate:
            while not gate.read(1):
                context.check_cancelled()
                time.sleep(0.001)


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
