"""An engine for tests that keeps models in memory, as numbers.

`load NAME BYTES`, `need BYTES`, `promise BYTES`, `wait PATH`.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path

from atelier_worker.engine import Context, DeviceRoom, LoadedModel, Task
from atelier_worker.promises import promises_of

ENGINE = f"{__name__}:KeepingEngine"
DEVICE = "cuda:0"


class KeepingEngine:
    """Obeys the prompt, and frees what it loaded when it is asked to. Option `gives`: `all`, `nothing`, or `never`."""

    concurrency = 2
    worker_types = ("sdxl",)

    def __init__(self, options: Mapping[str, object]) -> None:
        self.name = str(options["name"])
        self.models = (f"{self.name}-model",)
        self._gives = options.get("gives", "all")
        self._die_at = options.get("dies_when_asked", False)
        self._sizes: dict[str, int] = {}
        self._lock = threading.Lock()
        self._promises = promises_of(DEVICE)

    def run(self, task: Task, context: Context) -> None:
        """Run the commands of the prompt; at last, deliver what room was made, or promised elsewhere, as text."""
        made = ""
        for command in task.prompt.split(";"):
            what, *rest = command.split()
            match what:
                case "load":
                    self._sizes[rest[0]] = int(rest[1])
                case "need":
                    made = str(context.make_room(DEVICE, int(rest[0])))
                case "need_locked":
                    # What a careless engine does: it holds its lock while it waits for others.
                    with self._lock:
                        made = str(context.make_room(DEVICE, int(rest[0])))
                case "promise":
                    with self._promises.turn(context.check_cancelled) as others:
                        self._promises.keep(int(rest[0]))
                    made = str(others)
                case "wait":
                    Path(rest[0]).read_text()
                case "die":
                    os._exit(3)
        for index in task.indexes:
            path = context.workdir / "out.bin"
            path.write_text(made or "none")
            context.deliver(index, path)

    def loaded(self) -> list[LoadedModel]:
        return [LoadedModel(name, DEVICE, size) for name, size in self._sizes.items()]

    def device_room(self) -> DeviceRoom:
        return DeviceRoom(DEVICE, 1000 - sum(self._sizes.values()), 1000)

    def give_room(self, device: str, wanted_bytes: int) -> int:
        if self._die_at:
            os._exit(3)
        if self._gives == "never":
            threading.Event().wait()
        with self._lock:
            if self._gives == "nothing":
                return 0
            freed = 0
            for name in list(self._sizes):
                if freed < wanted_bytes:
                    freed += self._sizes.pop(name)
            return freed
