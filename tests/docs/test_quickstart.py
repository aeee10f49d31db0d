"""Runs every block of docs/quickstart.md against a real system, in order, as a reader would."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from atelier_client import Atelier
from tests.docs.blocks import DOCS, blocks, joined
from tests.support.system import UpProcess, clean_environ, up_process

QUICKSTART = DOCS / "quickstart.md"
RUN_SECONDS = 120.0


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpProcess]:
    # Not at once: a job that has ended shows no progress to whom a busy machine lets watch late.
    slower = ("--set", "sketch.step_delay=5ms")
    with up_process(tmp_path_factory.mktemp("quickstart") / "data", *slower) as running:
        running.wait_for_workers()
        yield running


def key_of(up: UpProcess, owner: str) -> str:
    """Make a key for an owner."""
    with up.client() as client:
        return client.create_key(owner).secret


def saved_prompts(up: UpProcess, owner: str) -> set[str]:
    """Return the prompts of what an owner has saved."""
    with Atelier(up.url, key_of(up, owner)) as client:
        return {item.provenance.prompt for item in client.items()}


def need(program: str) -> str:
    """Return where a program is. Without it the test is skipped; in continuous integration it fails."""
    found = shutil.which(program)
    if found is None and os.environ.get("CI") == "true":
        pytest.fail(f"{program} is needed in continuous integration")
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


def run(command: Sequence[str], folder: Path, environ: dict[str, str]) -> str:
    """Run a program in a folder and return what it printed; it must end well."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=clean_environ(environ),
        capture_output=True,
        check=False,
        text=True,
        timeout=RUN_SECONDS,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def is_png(path: Path) -> bool:
    return path.read_bytes().startswith(b"\x89PNG")


def test_only_languages_that_are_run_are_used() -> None:
    # A block of `console` shows how the system is started; test_references checks its commands.
    assert {block.language for block in blocks(QUICKSTART)} == {"console", "bash", "python", "javascript"}


def test_the_shell_blocks_run(up: UpProcess, tmp_path: Path) -> None:
    bash = need("bash")
    need("curl")
    # `atelier` and `python3` of the page are those of this environment.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environ = {"ATELIER_CLIENT_URL": up.url, "ATELIER_DATA_DIR": str(up.data_dir), "PATH": path}
    printed = run([bash, "-euo", "pipefail", "-c", joined(QUICKSTART, "bash")], tmp_path, environ)
    assert "event: progress" in printed
    assert is_png(tmp_path / "bicycle.png")
    assert sorted(file.suffix for file in (tmp_path / "pictures").iterdir()) == [".mp4", ".png", ".png"]
    lighthouse, bicycle = "a lighthouse on a basalt cliff in a storm", "a red bicycle leaning on a whitewashed wall"
    assert saved_prompts(up, "ada") == {lighthouse, bicycle}


def test_the_python_blocks_run(up: UpProcess, tmp_path: Path) -> None:
    program = tmp_path / "quickstart.py"
    program.write_text(joined(QUICKSTART, "python"), "utf-8")
    environ = {"ATELIER_CLIENT_URL": up.url, "ATELIER_CLIENT_KEY": key_of(up, "grace")}
    printed = run([sys.executable, "-W", "error", str(program)], tmp_path, environ)
    assert "succeeded" in printed
    assert is_png(tmp_path / "harbour-0.png")
    assert is_png(tmp_path / "harbour-1.png")
    assert saved_prompts(up, "grace") == {"a harbour at night"}


def test_the_javascript_blocks_run(up: UpProcess, tmp_path: Path) -> None:
    node = need("node")
    program = tmp_path / "quickstart.mjs"
    program.write_text(joined(QUICKSTART, "javascript"), "utf-8")
    environ = {"ATELIER_CLIENT_URL": up.url, "ATELIER_CLIENT_KEY": key_of(up, "margaret")}
    printed = run([node, str(program)], tmp_path, environ)
    assert "100 %" in printed
    assert "succeeded" in printed
    assert is_png(tmp_path / "fox-0.png")
    assert is_png(tmp_path / "fox-1.png")
    assert saved_prompts(up, "margaret") == {"a fox in the snow, gouache"}
