"""A process of workers from a worker.toml, for tests: in this process, with real engines in theirs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from atelier_worker.patience import Patience
from atelier_worker.worker import run_plan
from atelier_worker.worker_file import read_worker_file
from service_kit.settings import for_tests
from tests.atelier_worker.fake_router import KEY, FakeRouter, FakeSession, within


@dataclass(slots=True)
class Several:
    """Workers that run; `sessions` are by the name of the worker."""

    router: FakeRouter
    task: asyncio.Task[int]
    stop: asyncio.Event
    sessions: dict[str, FakeSession] = field(default_factory=dict)

    async def session(self, worker_id: str) -> FakeSession:
        """Return the session of a worker, waiting until it is there."""
        while worker_id not in self.sessions:
            found = await self.router.session()
            self.sessions[found.hello.worker_id] = found
        return self.sessions[worker_id]

    async def exit_code(self) -> int:
        """Wait for the end of the process."""
        code: int = await within(asyncio.shield(self.task))
        return code


def write_file(folder: Path, router: FakeRouter, engines: str, **worker: Any) -> Path:
    """Write a worker.toml for workers named `attic-…`, with the tables of engines as given."""
    key = folder / "worker.key"
    key.write_text(KEY)
    key.chmod(0o600)
    given = {"connect": router.target, "key_file": "worker.key", "name": "attic", "drain_grace": "5s"} | worker
    lines = [f"{name} = {str(value).lower() if value is True else repr(value)}" for name, value in given.items()]
    file = folder / "worker.toml"
    file.write_text("\n".join(["[worker]", *lines, engines]))
    return file


def start_several(folder: Path, router: FakeRouter, engines: str, **worker: Any) -> Several:
    """Start workers; whoever calls ends them."""
    plan = read_worker_file(write_file(folder, router, engines, **worker), for_tests(folder))
    stop = asyncio.Event()
    return Several(router, asyncio.create_task(run_plan(plan, stop=stop, patience=Patience())), stop)
