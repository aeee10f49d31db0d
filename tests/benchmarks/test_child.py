"""The processes of a benchmark: they do what they are told, say what went wrong, and end with their parent."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.child import Child, ChildFailed
from benchmarks.queues import wait_until

SCRIPT = """
import asyncio, sys
from benchmarks.child import serve, submit_burst, submit_paced
seen = []
async def submit(at_ns):
    seen.append(at_ns)
async def burst(jobs, submitters):
    return (await submit_burst(submit, jobs, submitters)) | {"jobs": len(seen)}
async def paced(jobs, per_second):
    return (await submit_paced(submit, jobs, per_second)) | {"jobs": len(seen)}
def fail():
    raise ValueError("no such thing")
asyncio.run(serve({"burst": burst, "paced": paced, "fail": fail, "die": lambda: sys.exit("out of luck")}))
"""


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Child]:
    started = Child("the child", [sys.executable, "-c", SCRIPT], tmp_path / "child.log")
    yield started
    started.end()


def test_it_submits_every_job_once(child: Child) -> None:
    assert child.ask("burst", jobs=10, submitters=4)["jobs"] == 10
    answer = child.ask("paced", jobs=5, per_second=1000.0)
    assert answer["jobs"] == 15
    assert answer["ended_ns"] - answer["started_ns"] >= 4e6


def test_what_goes_wrong_there_is_raised_here(child: Child) -> None:
    with pytest.raises(ChildFailed, match=r"the child failed: ValueError: no such thing"):
        child.ask("fail")
    assert child.ask("burst", jobs=1, submitters=1)["jobs"] == 1


def test_one_that_is_gone_is_told_with_its_last_words(child: Child) -> None:
    with pytest.raises(ChildFailed, match=r"the child ended with 1: .*out of luck"):
        child.ask("die")


def test_waiting_ends_with_what_the_check_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.queues._CHECK_EVERY_S", 0.0)

    def broken() -> None:
        raise ChildFailed("a worker broke")

    wait_until(lambda: True, "nothing", broken)
    with pytest.raises(ChildFailed, match="a worker broke"):
        wait_until(lambda: False, "jobs", broken)
    monkeypatch.setattr("benchmarks.queues._DONE_WITHIN_S", 0.0)
    with pytest.raises(RuntimeError, match="jobs: not done"):
        wait_until(lambda: False, "jobs")
