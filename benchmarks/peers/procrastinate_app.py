"""procrastinate's side: `submit` defers jobs, `work` runs them. Runs in the peers' environment."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import procrastinate  # type: ignore[import-not-found]  # installed for the benchmark only

from benchmarks.child import cpu_seconds, serve, submit_burst, submit_paced


class Side:
    """One process with its connections to the database."""

    def __init__(self, conninfo: str, pool: int) -> None:
        self._waits_ns: list[int] = []
        self._cpu_s = cpu_seconds()
        self.app = procrastinate.App(
            connector=procrastinate.PsycopgConnector(conninfo=conninfo, min_size=1, max_size=pool)
        )
        self._task = self.app.task(name="nothing", queue="bench")(self._nothing)

    async def _nothing(self, submitted_ns: int) -> None:
        self._waits_ns.append(time.monotonic_ns() - submitted_ns)

    async def submit(self, submitted_ns: int) -> None:
        """Defer one job."""
        await self._task.defer_async(submitted_ns=submitted_ns)

    async def burst(self, jobs: int, submitters: int) -> dict[str, Any]:
        """Defer as fast as possible."""
        return await submit_burst(self.submit, jobs, submitters)

    async def paced(self, jobs: int, per_second: float) -> dict[str, Any]:
        """Defer at a steady rate."""
        return await submit_paced(self.submit, jobs, per_second)

    def take(self) -> dict[str, Any]:
        """Return what was seen since the last call."""
        waits_ns, self._waits_ns = self._waits_ns, []
        now_s = cpu_seconds()
        used_s, self._cpu_s = now_s - self._cpu_s, now_s
        return {"waits_ns": waits_ns, "cpu_s": used_s}


async def main(role: str, conninfo: str, settings: dict[str, Any]) -> None:
    """Do what the parent says, until it closes our input."""
    side = Side(conninfo, settings["pool"])
    async with side.app.open_async():
        if role == "submit":
            await serve({"prepare": lambda: None, "burst": side.burst, "paced": side.paced})
            return
        worker = asyncio.create_task(side.app.run_worker_async(install_signal_handlers=False, **settings["worker"]))
        await serve({"prepare": lambda: None, "take": side.take})
        worker.cancel()
        await asyncio.wait({worker}, timeout=10)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))
