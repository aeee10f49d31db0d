"""Atelier under load: one router and one asset service on PostgreSQL, with the load's processes beside them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import psycopg
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.child import ROOT, Child, end_process
from benchmarks.queues import Burst, wait_until
from benchmarks.system import cpu_seconds_of, free_ports

SUBMITTERS = 64
WORKERS = 8
SLOTS = 16
_LOAD_PROCESSES = 2
_COUNT = (
    "SELECT (SELECT count(*) FROM asset.workspace_assets), (SELECT count(*) FROM router.jobs WHERE state = 'succeeded')"
)

Counts = tuple[int, int]
"""How many assets are visible, and how many jobs have succeeded."""


class Atelier:
    """A running system and its load; `running` starts one."""

    name = "Atelier"

    def __init__(
        self, servers: dict[str, int], submitters: Child, workers: Sequence[Child], finished: Callable[[], Counts]
    ) -> None:
        self.servers = servers
        self._submitters = submitters
        self._workers = workers
        self._finished = finished

    def burst(self, jobs: int, *, text: bool = False) -> Burst:
        """Submit with 64 submitters; done is a job whose asset is visible and whose state is SUCCEEDED.

        With `text` the jobs ask for an enhancement, which has no bytes and no asset.
        """
        self._submitters.ask("prepare")
        self._take()
        before, used = self._finished(), self._used()
        submitted = self._submitters.ask("burst", jobs=jobs, submitters=SUBMITTERS, text=text)
        self._wait(before, 0 if text else jobs, jobs)
        seconds = time.monotonic() - submitted["started_ns"] / 1e9
        used = {part: now - used[part] for part, now in self._used().items()}
        return Burst(jobs, seconds, submitted["cpu_s"] + self._take()[1], used)

    def waits_ms(self, jobs: int, per_second: float) -> list[float]:
        """Submit at a steady rate; returns the milliseconds from each submission until a worker held the lease."""
        self._submitters.ask("prepare")
        self._take()
        before = self._finished()
        self._submitters.ask("paced", jobs=jobs, per_second=per_second)
        self._wait(before, jobs, jobs)
        return [wait / 1e6 for wait in self._take()[0]]

    def _take(self) -> tuple[list[int], float]:
        answers = [worker.ask("take") for worker in self._workers]
        return [wait for answer in answers for wait in answer["waits_ns"]], sum(answer["cpu_s"] for answer in answers)

    def _wait(self, before: Counts, assets: int, jobs: int) -> None:
        wanted = (before[0] + assets, before[1] + jobs)

        def done() -> bool:
            return all(has >= wants for has, wants in zip(self._finished(), wanted, strict=True))

        wait_until(done, "jobs of Atelier", self._check)

    def _check(self) -> None:
        for worker in self._workers:
            worker.ask("check")

    def _used(self) -> dict[str, float]:
        return {part: cpu_seconds_of(process_id) for part, process_id in self.servers.items()}


@contextmanager
def running(folder: Path, database_url: str) -> Iterator[Atelier]:
    """Start everything on an empty database and stop it at the end.

    Args:
        folder: an empty folder, for blobs, keys and logs.
        database_url: of an empty PostgreSQL database.
    """
    with psycopg.connect(database_url, autocommit=True) as database:

        def finished() -> Counts:
            row = database.execute(_COUNT).fetchone() or (0, 0)
            return row[0], row[1]

        with started(folder, {"ATELIER_DATABASE_URL": database_url}, finished) as atelier:
            yield atelier


@contextmanager
def started(folder: Path, settings: dict[str, str], finished: Callable[[], Counts]) -> Iterator[Atelier]:
    """Start router, asset service and load with these settings beside the addresses and the folder."""
    router, asset = (f"127.0.0.1:{port}" for port in free_ports(2))
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "ATELIER_DATA_DIR": str(folder / "data"),
        "ATELIER_ROUTER_LISTEN": router,
        "ATELIER_ASSET_LISTEN": asset,
        "ATELIER_ROUTER_ASSET_TARGET": asset,
        # Thumbnails are an engine's work, which is none here; our own worker sends them with its outputs.
        "ATELIER_ASSET_FILL_RENDITIONS": "false",
        **settings,
    }
    _run([str(Path(sys.executable).with_name("atelier")), "migrate"], environment)
    with ExitStack() as stack:
        servers = {}
        for part, target in (("asset_service", asset), ("router_service", router)):
            servers[part] = stack.enter_context(_server(part, target, environment, folder))
        keys = {
            name: (folder / "data" / "keys" / f"{name}.key").read_text("utf-8").strip() for name in ("admin", "worker")
        }
        workers = []
        for number in range(_LOAD_PROCESSES):
            worker = _load(stack, "benchmarks.load.workers", f"workers-{number}", folder)
            share = WORKERS // _LOAD_PROCESSES
            worker.ask("connect", target=router, key=keys["worker"], first=number * share, sessions=share, slots=SLOTS)
            workers.append(worker)
        submitters = _load(stack, "benchmarks.load.submitters", "submitters", folder, router, keys["admin"])
        yield Atelier(servers, submitters, workers, finished)


def _run(command: list[str], environment: dict[str, str]) -> None:
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{command[-1]} ended with {done.returncode}: {(done.stderr or done.stdout)[-2000:]}")


def _load(stack: ExitStack, module: str, name: str, folder: Path, *arguments: str) -> Child:
    child = Child(name, [sys.executable, "-m", module, *arguments], folder / f"{name}.log")
    stack.callback(child.end)
    return child


@contextmanager
def _server(part: str, target: str, environment: dict[str, str], folder: Path) -> Iterator[int]:
    """Start a service, wait until it serves, yield its process id, and stop it at the end."""
    log = folder / f"{part}.log"
    with log.open("ab") as output:
        # `attached` ends it with us, however we end.
        command = [sys.executable, "-m", "atelier_cli.attached", part]
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True
        )
    try:
        wait_until(lambda: process.poll() is not None or _serves(target), f"{part} at {target}")
        if process.poll() is not None:
            raise RuntimeError(f"{part} ended with {process.returncode}: {log.read_text('utf-8')[-2000:]}")
        yield process.pid
    finally:
        end_process(process)


def _serves(target: str) -> bool:
    with grpc.insecure_channel(target) as channel:
        try:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=1)
        except grpc.RpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)
