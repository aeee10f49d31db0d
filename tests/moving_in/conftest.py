"""One `atelier up` without a worker for the tests of moving in, and a way to run commands against it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from atelier_cli.__main__ import main
from tests.support.system import UpProcess, up_process


@pytest.fixture(scope="session")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpProcess]:
    """A running `atelier up`."""
    with up_process(tmp_path_factory.mktemp("moving-in"), "--no-worker") as running:
        yield running


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
