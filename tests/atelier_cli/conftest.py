"""One `atelier up` for all tests of the command line, and a way to run commands against it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from atelier_cli.__main__ import main
from tests.atelier_client.scripted import ScriptedApi, scripted_api
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


@dataclass(frozen=True)
class Done:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Done]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process."""

    def run_command(*words: str) -> Done:
        try:
            code = main(words)
        except SystemExit as end:  # argparse ends so.
            code = end.code if isinstance(end.code, int) else 1
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run_command


@pytest.fixture
def atelier(up: UpProcess, run: Run) -> Run:
    """Run a command against the running system, as its operator."""
    return lambda *words: run("--data-dir", str(up.data_dir), "--url", up.url, *words)
