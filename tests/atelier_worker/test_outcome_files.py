"""Outcomes on their way to disk: together, each for itself, and to the end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from atelier.worker.v1 import worker_service_pb2 as pb
from atelier_worker.outcome_files import OutcomeFiles
from atelier_worker.spool import Spool


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path)
    made.open()
    return made


def _outcome(name: str) -> pb.Outcome:
    return pb.Outcome(ref=pb.LeaseRef(job_id=name, fence=1), completion_id=name, text="A heron")


def _kept(spool: Spool) -> set[str]:
    return {outcome.completion_id for outcome in spool.load_outcomes()}


def _counted(monkeypatch: pytest.MonkeyPatch, name: str) -> list[int]:
    calls: list[int] = []
    inner: Callable[[int], None] = getattr(os, name)

    def call(number: int) -> None:
        calls.append(number)
        inner(number)

    monkeypatch.setattr(os, name, call)
    return calls


async def test_outcomes_of_one_moment_are_flushed_with_one_flush_of_the_folder(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, flushed = OutcomeFiles(spool), _counted(monkeypatch, "fsync")
    names = ["a", "b", "c"]
    await asyncio.gather(*(files.keep(_outcome(name)) for name in names))
    assert _kept(spool) == set(names)
    assert len(flushed) == len(names) + 1
    for name in names[:2]:
        files.forget(pb.OutcomeAck(completion_id=name))
    await files.close()
    assert _kept(spool) == {"c"}


async def test_an_outcome_that_cannot_be_written_harms_no_other(spool: Spool) -> None:
    files = OutcomeFiles(spool)
    results = await asyncio.gather(
        *(files.keep(_outcome(name)) for name in ("a", "missing/b", "c")), return_exceptions=True
    )
    assert [type(result) for result in results] == [type(None), FileNotFoundError, type(None)]
    assert _kept(spool) == {"a", "c"}


async def test_none_is_called_kept_when_the_folder_is_not_flushed(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(path: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("atelier_worker.spool._flush_folder", fails)
    files = OutcomeFiles(spool)
    results = await asyncio.gather(*(files.keep(_outcome(name)) for name in "ab"), return_exceptions=True)
    assert [type(result) for result in results] == [OSError, OSError]


async def test_an_outcome_that_nobody_waits_for_any_more_is_written(spool: Spool) -> None:
    files = OutcomeFiles(spool)
    keeping = asyncio.create_task(files.keep(_outcome("a")))
    await asyncio.sleep(0)
    keeping.cancel()
    await files.close()
    assert _kept(spool) == {"a"}
    assert keeping.cancelled()


async def test_an_answered_outcome_goes_though_nothing_more_is_written(spool: Spool) -> None:
    files = OutcomeFiles(spool)
    await files.keep(_outcome("a"))
    files.forget(pb.OutcomeAck(completion_id="a"))
    async with asyncio.timeout(10):
        while _kept(spool):  # noqa: ASYNC110 - nobody is told, for nobody waits for it
            await asyncio.sleep(0.01)
