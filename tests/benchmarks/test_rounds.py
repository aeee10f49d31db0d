"""Rounds: everybody has a turn in each, and one that cannot be measured ends the run with a sentence."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks import rounds
from benchmarks.child import ChildFailed
from benchmarks.comparison import PeerMissing
from benchmarks.peers import environment
from benchmarks.rounds import Rounds

NO_SERVER: Any = None


def test_everybody_has_a_turn_in_each_round_in_changing_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[str] = []
    names = ["Atelier", "procrastinate", "Celery", "echo"]
    monkeypatch.setattr(Rounds, "_turns", lambda self: [(name, lambda n=name: turns.append(n)) for name in names])
    Rounds(tmp_path, NO_SERVER, ["jobs"]).run(3)
    assert Counter(turns) == dict.fromkeys(names, 3)
    orders = [tuple(turns[start : start + 4]) for start in (0, 4, 8)]
    assert all(sorted(order) == sorted(names) for order in orders)
    assert len(set(orders)) > 1


def test_a_peer_that_cannot_be_measured_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ChildFailed("there is no redis-server: install the package redis-server")

    monkeypatch.setattr(Rounds, "_turns", lambda self: [("Celery, 2 processes", broken)])
    with pytest.raises(PeerMissing, match=r"Celery, 2 processes was not measured in round 1: there is no redis-server"):
        Rounds(tmp_path, NO_SERVER, ["jobs"]).run(5)


def test_every_peer_and_every_alternative_has_a_turn(tmp_path: Path) -> None:
    names = [name for name, _ in Rounds(tmp_path, NO_SERVER, ["jobs", "dispatch"])._turns()]
    assert [name.partition(",")[0] for name in names] == [
        *("Atelier", "procrastinate", "procrastinate", "Celery", "Celery", "bare gRPC echo", "PostgreSQL floor"),
    ]


def test_the_command_fails_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(parts: list[str], count: int) -> None:
        raise PeerMissing(f"Celery was measured in 4 of {count} rounds")

    monkeypatch.setattr(command, "measure", measure)
    monkeypatch.setattr("signal.signal", lambda *args: None)
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--part", "jobs"])
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == f"the benchmark failed: Celery was measured in 4 of {rounds.ROUNDS} rounds"


@pytest.mark.parametrize("arguments", [["--part", "everything"], ["--part", ","], ["--rounds", "0"]])
def test_a_part_that_is_not_one_is_refused(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmarks", *arguments])
    with pytest.raises(SystemExit) as ended:
        command._arguments()
    assert ended.value.code == 2


def test_what_is_missing_on_the_machine_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "PYTHON", tmp_path / "bin" / "python")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ChildFailed, match="start with make bench"):
        environment.python()
    with pytest.raises(ChildFailed, match="install the package redis-server"):
        environment.redis_server()
