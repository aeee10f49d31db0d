"""A process of `make test` that dies fails the test that it ran, and the others run all the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FEW = "import pytest\n@pytest.mark.parametrize('n', range(5))\ndef test_it(n: int) -> None: ...\n"
DIES = "import os\ndef test_first() -> None: ...\ndef test_dies() -> None: os._exit(1)\ndef test_last() -> None: ...\n"


def test_the_tests_of_a_process_that_dies_are_run_by_another(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("from tests.conftest import pytest_xdist_make_scheduler\n")
    for n in range(4):
        (tmp_path / f"test_{n}.py").write_text(FEW)
    (tmp_path / "test_dies.py").write_text(DIES)
    given = ["-n", "2", "--dist", "loadscope", "-q", "-p", "no:cacheprovider", "-c", "/dev/null"]
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *given, f"--rootdir={tmp_path}", tmp_path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "1 failed, 22 passed" in ran.stdout, ran.stdout + ran.stderr
    assert "test_dies.py::test_dies" in ran.stdout
