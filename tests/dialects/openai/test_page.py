"""Runs docs/clients/openai.md as a reader would."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import DOCS, joined
from tests.support.system import System, clean_environ

pytestmark = pytest.mark.asyncio(loop_scope="session")
PAGE = DOCS / "clients" / "openai.md"
WHERE = "http://127.0.0.1:7400"


async def test_the_page_works_as_it_is_written(system: System, tmp_path: Path) -> None:
    lines = (
        joined(PAGE, "sh")
        .replace(WHERE, system.url)
        .replace("~/.local/share/atelier", str(system.settings.core.data_dir))
    )
    script = tmp_path / "reader.py"
    script.write_text(joined(PAGE, "python"), "utf-8")
    process = await asyncio.create_subprocess_exec(
        "sh",
        "-ec",
        f'{lines}\nexec "$PYTHON" -W ignore::DeprecationWarning reader.py',
        cwd=tmp_path,
        env=clean_environ({"PYTHON": sys.executable, "PATH": os.environ["PATH"]}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    assert "image_generation.completed" in output.decode()
    assert (tmp_path / "lighthouse-1.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "heron.mp4").read_bytes()[4:8] == b"ftyp"
