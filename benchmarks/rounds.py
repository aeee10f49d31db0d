"""Rounds of load: in each, Atelier and its peers have a turn of their own, one after the other, in changing order.

Every turn starts its system anew on an empty database and stops it, so that nobody runs beside somebody else.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psycopg

from benchmarks import atelier
from benchmarks.atelier import Atelier
from benchmarks.child import Child, ChildFailed
from benchmarks.comparison import PeerMissing, percentile
from benchmarks.peers import celery_queue, floor, procrastinate_queue
from benchmarks.peers.environment import settings
from benchmarks.queues import Queue
from tests.support.postgres import PostgresServer

ROUNDS = 5
TEXT_JOBS = "Atelier, jobs for a text, without bytes"
# The first burst warms up, and says how many jobs make a burst of about three seconds.
_WARM_UP_JOBS, _BURST_S = 150, 3.0
_IDLE_JOBS, _IDLE_PER_SECOND = 50, 10.0
_HALF_LOAD_S = 2.5


@dataclass
class Taken:
    """The figures of all rounds, by name: jobs per second, load share, milliseconds."""

    samples: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def add(self, name: str, value: float) -> None:
        """Add the figure of one round."""
        self.samples[name].append(value)


class Rounds:
    """Measures round by round with one PostgreSQL server for all who use one."""

    def __init__(self, folder: Path, server: PostgresServer, parts: Sequence[str]) -> None:
        self._folder = folder
        self._server = server
        self._parts = parts
        self.taken = Taken()

    def run(self, rounds: int = ROUNDS) -> Taken:
        """Take `rounds` rounds.

        Raises:
            PeerMissing: a peer could not be measured.
        """
        turns = self._turns()
        for number in range(rounds):
            # Seeded: the order changes, so that nobody always follows the same neighbour, and can be repeated.
            for name, turn in random.Random(number).sample(turns, len(turns)):  # noqa: S311 - no secret
                sys.stderr.write(f"round {number + 1} of {rounds}: {name}\n")
                try:
                    turn()
                except (ChildFailed, OSError, RuntimeError, psycopg.Error) as fault:
                    raise PeerMissing(f"{name} was not measured in round {number + 1}: {fault}") from fault
        return self.taken

    def _turns(self) -> list[tuple[str, Callable[[], None]]]:
        turns: list[tuple[str, Callable[[], None]]] = [("Atelier", self._atelier)]
        for chosen in settings("procrastinate")["alternatives"]:
            turns.append((f"procrastinate, {chosen['name']}", partial(self._procrastinate, chosen)))
        for chosen in settings("celery")["alternatives"]:
            turns.append((f"Celery, {chosen['name']}", partial(self._celery, chosen)))
        if "jobs" in self._parts:
            turns += [("bare gRPC echo", self._echo), ("PostgreSQL floor", self._floor)]
        return turns

    def _atelier(self) -> None:
        self._queue("Atelier", lambda folder: atelier.running(folder, self._database()))

    def _procrastinate(self, chosen: dict[str, Any]) -> None:
        self._queue(
            f"procrastinate, {chosen['name']}",
            lambda folder: procrastinate_queue.running(folder, self._database(), chosen),
        )

    def _celery(self, chosen: dict[str, Any]) -> None:
        self._queue(f"Celery, {chosen['name']}", lambda folder: celery_queue.running(folder, chosen))

    def _queue(self, name: str, start: Callable[[Path], AbstractContextManager[Queue]]) -> None:
        with tempfile.TemporaryDirectory(dir=self._folder) as folder, start(Path(folder)) as queue:
            warm = queue.burst(_WARM_UP_JOBS)
            burst = queue.burst(max(_WARM_UP_JOBS, int(warm.per_second * _BURST_S)))
            self.taken.add(f"{name}: jobs/s", burst.per_second)
            self.taken.add(f"{name}: load's share", burst.load_share)
            for part, used_s in burst.used_s.items():
                self.taken.add(f"{name}: {part}, ms of processor per job", used_s / burst.jobs * 1000)
            if "jobs" in self._parts and isinstance(queue, Atelier):
                text = queue.burst(burst.jobs, text=True)
                self.taken.add(f"{TEXT_JOBS}: jobs/s", text.per_second)
                self.taken.add(f"{TEXT_JOBS}: load's share", text.load_share)
            if "dispatch" in self._parts:
                self._note(f"{name}: idle", queue.waits_ms(_IDLE_JOBS, _IDLE_PER_SECOND))
                half = burst.per_second / 2
                self._note(f"{name}: half load", queue.waits_ms(int(half * _HALF_LOAD_S), half))

    def _note(self, name: str, waits_ms: Sequence[float]) -> None:
        self.taken.add(f"{name}, p50", percentile(waits_ms, 50))
        self.taken.add(f"{name}, p99", percentile(waits_ms, 99))

    def _echo(self) -> None:
        chosen = settings("echo")
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            log = Path(folder) / "echo.log"
            server = Child("echo server", [sys.executable, "-m", "benchmarks.peers.echo", "serve"], log)
            try:
                target = f"127.0.0.1:{server.ask('port')['port']}"
                client = Child("echo client", [sys.executable, "-m", "benchmarks.peers.echo", "call", target], log)
                try:
                    for alternative in chosen["alternatives"]:
                        self._echo_at(client, alternative, chosen["payload_bytes"])
                finally:
                    client.end()
            finally:
                server.end()

    def _echo_at(self, client: Child, alternative: dict[str, Any], payload_bytes: int) -> None:
        told = {"concurrency": alternative["concurrency"], "payload_bytes": payload_bytes}
        client.ask("burst", seconds=0.3, **told)
        answer = client.ask("burst", seconds=1.5, **told)
        self.taken.add(f"bare gRPC echo, {alternative['name']}: jobs/s", answer["calls"] / answer["seconds"])
        self.taken.add(f"bare gRPC echo, {alternative['name']}: load's share", answer["cpu_s"] / answer["seconds"])

    def _floor(self) -> None:
        chosen, url = settings("floor"), self._database()
        floor.prepare(url)
        for alternative in chosen["alternatives"]:
            per_second = floor.jobs_per_second(
                url, batch=alternative["batch"], connections=chosen["connections"], seconds=chosen["seconds"]
            )
            self.taken.add(f"PostgreSQL floor, {alternative['name']}: jobs/s", per_second)

    def _database(self) -> str:
        """Return the URL of a new, empty database; the one before it is dropped."""
        with psycopg.connect(self._server.url(), autocommit=True) as connection:
            connection.execute("DROP DATABASE IF EXISTS bench WITH (FORCE)")
            connection.execute("CREATE DATABASE bench")
        return self._server.url("bench")
