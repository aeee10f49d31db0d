"""A crash point kills the process there, and only there."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from service_kit import crash

SCRIPT = """
from service_kit import crash
crash.arm({point!r})
for n in range(3):
    crash.reach("a.b")
    print(n, flush=True)
    crash.reach("a.c")
"""


def run(point: str) -> tuple[int, str]:
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(point=point)], check=False, capture_output=True, text=True, cwd=root
    )
    return done.returncode, "".join(done.stdout.split())


def test_only_the_armed_point_kills() -> None:
    assert run("") == (0, "012")
    assert run("a") == (0, "012")
    assert run("a.b") == (-signal.SIGKILL, "")
    assert run("a.c:2") == (-signal.SIGKILL, "01")


@pytest.mark.parametrize("point", ["a:0", "a:-1", "a:x"])
def test_a_count_starts_at_one(point: str) -> None:
    with pytest.raises(ValueError, match=r"count|invalid literal"):
        crash.arm(point)
