"""Outcomes on their way to the journal: together, and to the end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from atelier.worker.v1 import worker_service_pb2 as pb
from atelier_worker.journal import Journal
from atelier_worker.outcome_writer import OutcomeWriter


def _outcome(name: str) -> pb.Outcome:
    return pb.Outcome(ref=pb.LeaseRef(job_id=name, fence=1), completion_id=name, text="A heron")


def _kept(folder: Path) -> set[str]:
    return {outcome.completion_id for outcome in Journal(folder).kept()}


async def test_outcomes_of_one_moment_are_written_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes: list[tuple[list[str], Sequence[str]]] = []
    change = Journal.change

    def note(journal: Journal, keep: Sequence[pb.Outcome], forget: Sequence[str]) -> None:
        changes.append(([outcome.completion_id for outcome in keep], forget))
        change(journal, keep, forget)

    monkeypatch.setattr(Journal, "change", note)
    writer = OutcomeWriter(Journal(tmp_path))
    await asyncio.gather(*(writer.keep(_outcome(name)) for name in "abc"))
    assert _kept(tmp_path) == {"a", "b", "c"}
    for name in "ab":
        writer.forget(pb.OutcomeAck(completion_id=name))
    await writer.keep(_outcome("d"))
    await writer.close()
    assert changes == [(["a", "b", "c"], []), (["d"], ["a", "b"])]
    assert _kept(tmp_path) == {"c", "d"}


async def test_none_is_called_kept_when_they_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(journal: Journal, keep: Sequence[pb.Outcome], forget: Sequence[str]) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Journal, "change", fails)
    writer = OutcomeWriter(Journal(tmp_path))
    results = await asyncio.gather(*(writer.keep(_outcome(name)) for name in "ab"), return_exceptions=True)
    assert [type(result) for result in results] == [OSError, OSError]
    writer.forget(pb.OutcomeAck(completion_id="a"))
    await writer.close()


async def test_an_outcome_that_nobody_waits_for_any_more_is_written(tmp_path: Path) -> None:
    writer = OutcomeWriter(Journal(tmp_path))
    keeping = asyncio.create_task(writer.keep(_outcome("a")))
    await asyncio.sleep(0)
    keeping.cancel()
    await writer.close()
    assert _kept(tmp_path) == {"a"}
    assert keeping.cancelled()


async def test_an_answered_outcome_goes_though_nothing_more_is_written(tmp_path: Path) -> None:
    writer = OutcomeWriter(Journal(tmp_path))
    await writer.keep(_outcome("a"))
    writer.forget(pb.OutcomeAck(completion_id="a"))
    async with asyncio.timeout(10):
        while _kept(tmp_path):  # noqa: ASYNC110 - nobody is told, for nobody waits for it
            await asyncio.sleep(0.01)
    await writer.close()
