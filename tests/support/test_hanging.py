"""A test whose fixture hangs at its end fails, says where, and does not keep the next one from running."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FILE = """
import asyncio, pytest

async def sits():
    await asyncio.Event().wait()

@pytest.fixture
async def service():
    yield
    await sits()

async def test_first(service):
    pass

async def test_next():
    pass
"""


def test_what_hangs_at_the_end_of_a_fixture_is_named_and_the_rest_runs(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(FILE)
    given = ["-p", "tests.support.hanging", "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", "-o", "timeout=2"]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", f"--rootdir={tmp_path}", *given, tmp_path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "2 passed, 1 error" in ran.stdout, ran.stdout + ran.stderr
    assert "It took longer than 2 s. What each task waits for:" in ran.stdout
    assert "test_it.py:5 sits" in ran.stdout
