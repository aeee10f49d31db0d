"""One `atelier up` without a worker for the tests of moving in, and a way to run commands against it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.commands import Done, Run, as_operator, run
from tests.support.system import UpProcess, up_process


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpProcess]:
    """A running `atelier up`."""
    with up_process(tmp_path_factory.mktemp("moving-in"), "--no-worker") as running:
        yield running


@pytest.fixture
def atelier(up: UpProcess, run: Run) -> Run:
    """Run a command against the running system, as its operator."""
    return as_operator(up, run)


__all__ = ["Done", "Run", "run"]
