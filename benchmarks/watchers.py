"""Memory of idle watchers: a gateway in a process of its own beside bare uvicorn, with the same watchers of each.

What counts is by how much the serving process grows from a few watchers, which warm it up, to thousands; then something
happens, and each of them has to hear of it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from atelier_client import Atelier
from benchmarks.child import ROOT, Child, ChildFailed, end_process
from benchmarks.comparison import PeerMissing, Series, Target, ratio, require_all
from benchmarks.load_report import Line
from benchmarks.queues import wait_until
from benchmarks.system import free_ports, is_healthy, proportional_set_size_mb, system

WATCHERS = 2000
BARE, JOB, EVERYTHING = "bare uvicorn", "Atelier's gateway, one job", "Atelier's gateway, everything of an owner"
NAMES = (BARE, JOB, EVERYTHING)
_WARM_UP = 100
# Of the models that are watched here.
_NO_WORKER = {"ATELIER_WORKER_WORKER_TYPES": "chat"}
_TARGET = Target(1.5, at_least=False)


def measure(folder: Path, rounds: int, watchers: int = WATCHERS) -> dict[str, list[float]]:
    """Return the kB (10^3 bytes) a watcher by whom it watches, of each round.

    Raises:
        PeerMissing: somebody was not measured.
    """
    samples: dict[str, list[float]] = {name: [] for name in NAMES}
    for number in range(rounds):
        # The order changes, so that nobody always follows the same neighbour.
        for name in NAMES[number % len(NAMES) :] + NAMES[: number % len(NAMES)]:
            sys.stderr.write(f"watchers, round {number + 1} of {rounds}: {name}\n")
            try:
                with tempfile.TemporaryDirectory(dir=folder) as place:
                    kb = _bare(Path(place), watchers) if name == BARE else _gateway(Path(place), name, watchers)
            except (ChildFailed, OSError, RuntimeError) as fault:
                raise PeerMissing(f"{name} was not measured in round {number + 1}: {fault}") from fault
            samples[name].append(kb)
    return samples


def table(samples: Mapping[str, Sequence[float]], rounds: int) -> list[Line]:
    """Return the lines of the table: memory a watcher, and the ratio to bare uvicorn.

    Raises:
        PeerMissing: somebody was not measured in every round.
    """
    require_all(samples, NAMES, rounds)
    series = {name: Series(name, "kB a watcher", tuple(samples[name])) for name in NAMES}
    return [
        Line(series[BARE]),
        Line(series[JOB], ratio(series[JOB], series[BARE]), _TARGET),
        Line(series[EVERYTHING], ratio(series[EVERYTHING], series[BARE]), note="three streams in one"),
    ]


def _bare(place: Path, watchers: int) -> float:
    server = Child("bare uvicorn", [sys.executable, "-m", "benchmarks.peers.sse"], place / "uvicorn.log")
    try:
        port = int(server.ask("port")["port"])
        with _load(place) as load:
            told = {"port": port, "path": "/", "key": "", "begun": ": open"}
            return _grown(load, server.process_id, told, watchers, lambda: server.ask("publish"))
    finally:
        server.end()


def _gateway(place: Path, name: str, watchers: int) -> float:
    """Watch a job that waits, through a gateway of its own in front of the services of a whole system."""
    with system(place / "system", _NO_WORKER) as running, Atelier(running.url, running.key) as client:
        # Nobody takes the job: it waits until it is cancelled.
        job = client.submit("a lighthouse", model="sdxl", format="image")
        path = f"/v1/jobs/{job.job_id}/events" if name == JOB else "/v1/events"
        with _own_gateway(place, running.targets) as (process_id, port), _load(place) as load:
            begun = "event: snapshot" if name == JOB else "event: jobs.snapshot"
            told = {"port": port, "path": path, "key": running.key, "begun": begun}
            return _grown(load, process_id, told, watchers, lambda: client.cancel(job.job_id))


def _grown(
    load: Child, process_id: int, told: Mapping[str, object], watchers: int, publish: Callable[[], object]
) -> float:
    """Return by how many kB a watcher the process grows; in the end each of them has been told of something."""
    load.ask("open", **told, count=_WARM_UP)
    before_mb = proportional_set_size_mb(process_id)
    load.ask("open", **told, count=watchers)
    grown_mb = proportional_set_size_mb(process_id) - before_mb
    publish()
    load.ask("heard", count=_WARM_UP + watchers)
    load.ask("close")
    return grown_mb * 1000 / watchers


@contextmanager
def _load(place: Path) -> Iterator[Child]:
    child = Child("watchers", [sys.executable, "-m", "benchmarks.load.watchers"], place / "watchers.log")
    try:
        yield child
    finally:
        child.end()


@contextmanager
def _own_gateway(place: Path, targets: Mapping[str, str]) -> Iterator[tuple[int, int]]:
    """Start a gateway in front of running services. Yields its process and its port."""
    (port,) = free_ports(1)
    environment = os.environ | {
        "ATELIER_DATA_DIR": str(place / "system"),
        "ATELIER_LOG_LEVEL": "warning",
        "ATELIER_GATEWAY_LISTEN": f"127.0.0.1:{port}",
        **{f"ATELIER_GATEWAY_{part}_TARGET": targets[part] for part in ("ROUTER", "ASSET", "LIBRARY")},
    }
    with (place / "gateway.log").open("ab") as log:
        # `attached` ends it with us, however we end.
        command = [sys.executable, "-m", "atelier_cli.attached", "gateway"]
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdin=subprocess.PIPE, stdout=log, stderr=log)
    try:
        wait_until(lambda: process.poll() is not None or is_healthy(f"http://127.0.0.1:{port}"), "the gateway")
        if process.poll() is not None:
            raise RuntimeError(f"it ended with {process.returncode}: {(place / 'gateway.log').read_text()[-500:]}")
        yield process.pid, port
    finally:
        end_process(process)
