"""Runs commands of `atelier` in the process of the tests; a `conftest` takes the fixture `run` from here."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from atelier_cli.__main__ import main
from tests.support.system import UpProcess


@dataclass(frozen=True)
class Done:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it printed, read as JSON."""
        return json.loads(self.out)


Run = Callable[..., Done]
"""Runs a command, given as words."""


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


def as_operator(up: UpProcess, run: Run) -> Run:
    """Return what runs commands against a running system, as its operator."""
    return lambda *words: run("--data-dir", str(up.data_dir), "--url", up.url, *words)
