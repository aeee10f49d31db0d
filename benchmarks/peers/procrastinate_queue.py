"""procrastinate as a queue that is measured: a database, a process that submits, processes that work."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.child import Child
from benchmarks.peers.environment import python, settings
from benchmarks.queues import Burst, wait_until

_SCHEMA = (
    "import logging, procrastinate, sys; logging.disable()\n"
    "app = procrastinate.App(connector=procrastinate.SyncPsycopgConnector(conninfo=sys.argv[1]))\n"
    "with app.open(): app.schema_manager.apply_schema()\n"
)
_OPEN = "SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"


class Procrastinate:
    """A running procrastinate; `running` starts one."""

    name = "procrastinate"

    def __init__(self, submitter: Child, workers: Sequence[Child], database: psycopg.Connection) -> None:
        self._submitter = submitter
        self._workers = workers
        self._database = database

    def burst(self, jobs: int) -> Burst:
        """Defer with 64 tasks; done is a job whose row says succeeded."""
        self._take()
        submitted = self._submitter.ask("burst", jobs=jobs, submitters=settings("procrastinate")["submitters"]["tasks"])
        self._wait()
        seconds = time.monotonic() - submitted["started_ns"] / 1e9
        return Burst(jobs, seconds, submitted["cpu_s"] + self._take()[1])

    def waits_ms(self, jobs: int, per_second: float) -> list[float]:
        """Defer at a steady rate; returns the milliseconds from each call of defer until the task's body began."""
        self._take()
        self._submitter.ask("paced", jobs=jobs, per_second=per_second)
        self._wait()
        return [wait / 1e6 for wait in self._take()[0]]

    def _take(self) -> tuple[list[int], float]:
        answers = [worker.ask("take") for worker in self._workers]
        return [wait for answer in answers for wait in answer["waits_ns"]], sum(answer["cpu_s"] for answer in answers)

    def _wait(self) -> None:
        wait_until(lambda: self._database.execute(_OPEN).fetchone() == (0,), "jobs of procrastinate")


@contextmanager
def running(folder: Path, database_url: str, alternative: dict[str, Any]) -> Iterator[Procrastinate]:
    """Start it on an empty database as one of its alternatives says; stop it at the end."""
    program = python()
    subprocess.run([program, "-c", _SCHEMA, database_url], check=True, capture_output=True)
    with ExitStack() as stack:
        sides = [("submit", settings("procrastinate")["submitters"])]
        sides += [("work", alternative)] * alternative["processes"]
        children = []
        for number, (role, chosen) in enumerate(sides):
            command = [program, "-m", "benchmarks.peers.procrastinate_app", role, database_url, json.dumps(chosen)]
            child = Child(f"procrastinate {role}", command, folder / f"procrastinate-{role}-{number}.log")
            stack.callback(child.end)
            child.ask("prepare")
            children.append(child)
        database = stack.enter_context(psycopg.connect(database_url, autocommit=True))
        yield Procrastinate(children[0], children[1:], database)
