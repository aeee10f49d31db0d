"""The PostgreSQL that tests run on: named or their own, missing, and gone with the run that started it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from tests.conftest import databases_for_tests
from tests.support.postgres import NoPostgres
from tests.support.processes import ROOT


async def test_without_a_server_tests_fail_in_ci_and_are_skipped_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing() -> Path:
        raise NoPostgres("There is no PostgreSQL.")

    monkeypatch.setattr("tests.support.postgres.find_binaries", nothing)
    with pytest.raises(NoPostgres):
        next(databases_for_tests({"CI": "true"}))
    for laptop in ({}, {"CI": ""}, {"CI": "false"}):
        with pytest.raises(pytest.skip.Exception, match="no PostgreSQL"):
            next(databases_for_tests(laptop))


async def test_a_server_that_is_named_is_used(postgres_url: str) -> None:
    giving = databases_for_tests({"TEST_DATABASE_URL": postgres_url})
    databases = next(giving)
    url = databases.create(migrated=False)
    assert make_url(url).port == make_url(postgres_url).port
    databases.drop(url)
    assert list(giving) == []


def test_a_server_does_not_outlive_a_test_run_that_is_killed() -> None:
    script = (
        "import os; from tests.support.postgres import PostgresServer; server = PostgresServer(); server.start(); "
        "print(server.folder, flush=True); os.kill(os.getpid(), 9)"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    folder = Path(run.stdout.strip())
    assert folder.name.startswith("atelier-pg-")
    until = time.monotonic() + 30
    while folder.exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert not folder.exists()
