"""Fetching weights: seen by all who wait, done once, left by whoever is cancelled, tried again after a failure."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from atelier_worker.engine import Cancelled, EngineError
from atelier_worker.engines.fetches import Fetches
from tests.atelier_worker.engines.listener import Listener

_LIMIT_S = 10.0


@dataclass
class Waiter(Listener):
    """Remembers the phases; `seen` is set by the first one."""

    phases: list[str] = field(default_factory=list)
    seen: threading.Event = field(default_factory=threading.Event)

    def progress(self, step: int, steps: int, *, asset_index: int | None = None, phase: str = "") -> None:
        self.phases.append(phase)
        self.seen.set()
        super().progress(step, steps, asset_index=asset_index, phase=phase)


@dataclass
class Hub:
    """Hands a file over when it is told to, and counts how often it was asked."""

    may_go: threading.Event = field(default_factory=threading.Event)
    asked: int = 0

    def fetch(self) -> str:
        self.asked += 1
        assert self.may_go.wait(_LIMIT_S)
        return "weights"


def test_who_is_cancelled_leaves_and_the_next_one_finds_what_there_is(tmp_path: Path) -> None:
    fetches, hub = Fetches[str](), Hub()
    with pytest.raises(Cancelled):
        fetches.wait("sdxl", hub.fetch, Waiter(tmp_path, cancel_when=lambda _: True))
    hub.may_go.set()
    assert fetches.wait("sdxl", hub.fetch, Waiter(tmp_path)) == "weights"
    assert hub.asked == 1


def test_all_who_wait_see_it_and_it_is_fetched_once(tmp_path: Path) -> None:
    fetches, hub = Fetches[str](), Hub()
    waiters = [Waiter(tmp_path), Waiter(tmp_path)]
    with ThreadPoolExecutor() as threads:
        made = [threads.submit(fetches.wait, "sdxl", hub.fetch, one) for one in waiters]
        for one in waiters:
            assert one.seen.wait(_LIMIT_S)
        hub.may_go.set()
        assert [one.result(_LIMIT_S) for one in made] == ["weights", "weights"]
    assert hub.asked == 1
    # A phase that begins so may be silent for longer than a step.
    assert {phase for one in waiters for phase in one.phases} == {"loading sdxl: fetching it"}


def test_a_failure_is_told_and_tried_again(tmp_path: Path) -> None:
    fetches, hub = Fetches[str](), Hub()
    hub.may_go.set()

    def fail() -> str:
        raise EngineError("There is no network.")

    with pytest.raises(EngineError, match="no network"):
        fetches.wait("sdxl", fail, Waiter(tmp_path))
    assert fetches.wait("sdxl", hub.fetch, Waiter(tmp_path)) == "weights"
