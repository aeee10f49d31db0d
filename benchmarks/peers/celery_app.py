"""Celery's side: the application for `celery worker`, and, run as a module, what submits.

Runs in the peers' environment.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from celery import Celery  # type: ignore[import-not-found]  # installed for the benchmark only

from benchmarks.child import cpu_seconds, serve

_settings: dict[str, Any] = json.loads(os.environ["BENCH_CELERY"])
_waits = Path(os.environ["BENCH_WAITS"])

app = Celery("bench", broker=os.environ["BENCH_BROKER"])
app.conf.update(_settings)


@app.task(name="nothing")  # type: ignore[untyped-decorator]  # for the same reason
def nothing(submitted_ns: int) -> None:
    """Note the wait in a file of this process: its pool may have several."""
    wait_ns = time.monotonic_ns() - submitted_ns
    with (_waits / f"{os.getpid()}.waits").open("a", encoding="ascii") as file:
        file.write(f"{wait_ns}\n")


def burst(jobs: int, submitters: int) -> dict[str, Any]:
    """Submit as fast as possible with so many threads."""
    numbers = iter(range(jobs))

    def one(_: int) -> None:
        for _number in numbers:
            nothing.delay(time.monotonic_ns())

    cpu, started_ns = cpu_seconds(), time.monotonic_ns()
    with ThreadPoolExecutor(submitters) as threads:
        list(threads.map(one, range(submitters)))
    return {"started_ns": started_ns, "ended_ns": time.monotonic_ns(), "cpu_s": cpu_seconds() - cpu}


def paced(jobs: int, per_second: float, submitters: int) -> dict[str, Any]:
    """Submit at a steady rate, from as many threads as it takes."""
    cpu, started_ns = cpu_seconds(), time.monotonic_ns()
    with ThreadPoolExecutor(submitters) as threads:
        for number in range(jobs):
            time.sleep(max(0, started_ns + int(number / per_second * 1e9) - time.monotonic_ns()) / 1e9)
            threads.submit(nothing.delay, time.monotonic_ns())
    return {"started_ns": started_ns, "ended_ns": time.monotonic_ns(), "cpu_s": cpu_seconds() - cpu}


if __name__ == "__main__":
    sys.modules["benchmarks.peers.celery_app"] = sys.modules["__main__"]
    asyncio.run(serve({"prepare": lambda: None, "burst": burst, "paced": paced}))
