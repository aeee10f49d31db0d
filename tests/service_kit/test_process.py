"""A part as a process: it ends in order when asked, and says in one sentence why it cannot start."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Iterator

import pytest

from service_kit import crash
from service_kit.errors import FailedPrecondition
from service_kit.process import EXIT_NOT_IN_TIME, run
from service_kit.server import Running
from service_kit.settings import Settings


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave this process's logging, environment and crash point as they are."""
    monkeypatch.setattr("service_kit.process.configure_logging", lambda level, format: None)
    monkeypatch.setattr(crash, "_armed", "")
    for name in [name for name in os.environ if name.startswith("ATELIER_")]:
        monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def collection_as_before() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("asked_while_it_starts", [False, True])
def test_it_serves_until_it_is_asked_to_end_and_stops_in_order(
    number: signal.Signals, asked_while_it_starts: bool
) -> None:
    done: list[str] = []

    async def stop() -> None:
        done.append("stopped")

    async def start(settings: Settings) -> Running:
        if asked_while_it_starts:
            os.kill(os.getpid(), number)
        else:
            asyncio.get_running_loop().call_soon(os.kill, os.getpid(), number)
        done.append("started")
        return Running("part", "127.0.0.1:1", stop)

    run(start)
    assert done == ["started", "stopped"]
    assert gc.get_freeze_count() > 0
    assert gc.get_threshold()[0] > 10_000


def test_the_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATELIER_ROUTER_LISTEN", "127.0.0.1:12345")
    monkeypatch.setenv("ATELIER_CRASH_POINT", "a.point")
    seen: list[str] = []

    async def start(settings: Settings) -> Running:
        seen.append(settings.router.listen)
        raise FailedPrecondition("The folder is in use.")

    with pytest.raises(SystemExit):
        run(start)
    assert (seen, crash._armed) == (["127.0.0.1:12345"], "a.point")


def test_why_it_cannot_start_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def start(settings: Settings) -> Running:
        raise FailedPrecondition("The folder is in use by router, process 7.")

    with pytest.raises(SystemExit) as ended:
        run(start)
    assert (ended.value.code, capsys.readouterr().err) == (2, "The folder is in use by router, process 7.\n")

    monkeypatch.setenv("ATELIER_ROUTER_LEASE_TTL", "soon")
    with pytest.raises(SystemExit) as ended:
        run(start)
    said = capsys.readouterr().err
    assert (ended.value.code, said.count("\n")) == (2, 1)
    assert "router.lease_ttl" in said or "ATELIER_ROUTER_LEASE_TTL" in said


def test_a_fault_is_not_taken_for_a_sentence() -> None:
    async def start(settings: Settings) -> Running:
        raise ValueError("a fault of ours")

    with pytest.raises(ValueError, match="a fault of ours"):
        run(start)


def test_a_part_that_does_not_stop_in_time_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("service_kit.process.STOP_LIMIT_S", 0.01)
    monkeypatch.setattr("service_kit.process.os._exit", sys.exit)

    async def stop() -> None:
        await asyncio.Event().wait()

    async def start(settings: Settings) -> Running:
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)
        return Running("part", "127.0.0.1:1", stop)

    with pytest.raises(SystemExit, match=str(EXIT_NOT_IN_TIME)):
        run(start)
    assert "part did not stop within 0.01 s" in capsys.readouterr().err
