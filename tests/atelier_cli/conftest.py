"""One `atelier up` for all tests of the command line, and a way to run commands against it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.atelier_client.scripted import ScriptedApi, scripted_api
from tests.support.commands import Done, Run, as_operator, run
from tests.support.system import UpProcess, up_process


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpProcess]:
    """A running `atelier up` with its worker connected."""
    with up_process(tmp_path_factory.mktemp("up")) as running:
        running.wait_for_workers()
        yield running


@pytest.fixture
def api() -> Iterator[ScriptedApi]:
    with scripted_api() as api:
        yield api


@pytest.fixture
def atelier(up: UpProcess, run: Run) -> Run:
    """Run a command against the running system, as its operator."""
    return as_operator(up, run)


__all__ = ["Done", "Run", "run"]
