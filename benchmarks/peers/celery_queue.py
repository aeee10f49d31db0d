"""Celery with Redis as a queue that is measured: a Redis, a process that submits, a worker with its pool."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.child import ROOT, Child, end_process
from benchmarks.peers.environment import python, redis_server, settings
from benchmarks.queues import Burst, wait_until
from benchmarks.system import cpu_seconds_of, free_ports

_WORKER = ["-m", "celery", "-A", "benchmarks.peers.celery_app", "worker", "--loglevel", "WARNING"]


class Celery:
    """A running Celery; `running` starts one."""

    name = "Celery"

    def __init__(self, submitter: Child, worker: int, redis_port: int, waits: Path) -> None:
        self._submitter = submitter
        self._worker = worker
        self._redis_port = redis_port
        self._waits = waits
        self._threads = settings("celery")["submitters"]["threads"]

    def burst(self, jobs: int) -> Burst:
        """Submit with 64 threads; done is a task that was acknowledged, which is after it ran."""
        used_s = cpu_seconds_of(self._worker)
        submitted = self._submitter.ask("burst", jobs=jobs, submitters=self._threads)
        self._wait()
        seconds = time.monotonic() - submitted["started_ns"] / 1e9
        return Burst(jobs, seconds, submitted["cpu_s"] + cpu_seconds_of(self._worker) - used_s)

    def waits_ms(self, jobs: int, per_second: float) -> list[float]:
        """Submit at a steady rate; returns the milliseconds from each call of delay until the task's body began."""
        for file in self._waits.iterdir():
            file.write_text("", "ascii")
        self._submitter.ask("paced", jobs=jobs, per_second=per_second, submitters=self._threads)
        self._wait()
        return [int(line) / 1e6 for file in self._waits.iterdir() for line in file.read_text("ascii").split()]

    def _wait(self) -> None:
        wait_until(lambda: self._waiting() == 0, "tasks of Celery")

    def _waiting(self) -> int:
        """Return how many tasks wait or are not acknowledged."""
        return _ask_redis(self._redis_port, "LLEN celery") + _ask_redis(self._redis_port, "HLEN unacked")


@contextmanager
def running(folder: Path, alternative: dict[str, Any]) -> Iterator[Celery]:
    """Start Redis and Celery as one of its alternatives says; stop them at the end."""
    program, port = python(), free_ports(1)[0]
    waits = folder / "waits"
    waits.mkdir()
    environment = {
        "BENCH_CELERY": json.dumps(settings("celery")["celery"]),
        "BENCH_WAITS": str(waits),
        "BENCH_BROKER": f"redis://127.0.0.1:{port}/0",
    }
    # Celery warns of root, whom it does not need; the load has nothing to protect.
    with ExitStack() as stack:
        stack.enter_context(_process(_redis_command(port, folder), folder / "redis.log", {}))
        wait_until(lambda: _answers(port), "Redis")
        worker = stack.enter_context(
            _process([program, *_WORKER, *alternative["arguments"]], folder / "celery.log", environment)
        )
        submitter = Child(
            "Celery submit", [program, "-m", "benchmarks.peers.celery_app"], folder / "submit.log", environment
        )
        stack.callback(submitter.end)
        celery = Celery(submitter, worker, port, waits)
        # Done is the first task: so the worker is up.
        celery.waits_ms(1, 10)
        yield celery


def _redis_command(port: int, folder: Path) -> list[str]:
    chosen = [part for name, value in settings("celery")["redis"].items() for part in (f"--{name}", value)]
    return [redis_server(), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", *chosen]


@contextmanager
def _process(command: list[str], log: Path, environment: dict[str, str]) -> Iterator[int]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, cwd=ROOT, stdout=output, stderr=output
        )
    try:
        yield process.pid
    finally:
        end_process(process)


def _answers(port: int) -> bool:
    try:
        _ask_redis(port, "DBSIZE")
    except OSError:
        return False
    return True


def _ask_redis(port: int, command: str) -> int:
    """Return what Redis answers to a command whose answer is a number."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(f"{command}\r\n".encode("ascii"))
        return int(connection.makefile("rb").readline()[1:])
