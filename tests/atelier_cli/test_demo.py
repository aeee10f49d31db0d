"""`make demo`: everything once, then nothing is left running; and what it says when something is missing."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from atelier_cli.host import PACKAGES
from tests.atelier_cli.test_up import WAIT_SECONDS, family, none_alive, until
from tests.support.system import clean_environ

DEMO = [sys.executable, str(Path(__file__).parents[2] / "scripts" / "demo.py")]


def environ(data_dir: Path, **changes: str) -> dict[str, str]:
    ports = {f"ATELIER_{name.upper()}_LISTEN": "127.0.0.1:0" for name in PACKAGES}
    return clean_environ({**ports, "ATELIER_DATA_DIR": str(data_dir), "ATELIER_SKETCH_STEP_DELAY": "0ms", **changes})


def test_it_makes_everything_once_and_ends(tmp_path: Path) -> None:
    done = subprocess.run(
        DEMO, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, env=environ(tmp_path), timeout=120
    )
    assert done.returncode == 0, done.stderr + done.stdout
    files = sorted(path.suffix for path in (tmp_path / "demo").iterdir())
    assert files == [".log", ".mp4", ".png", ".png", ".png", ".png", ".txt"]
    assert len((tmp_path / "demo" / "prompt.txt").read_text().split()) >= 20
    assert re.search(r"item [0-9a-f-]{36}\n", done.stdout)
    for said in (str(tmp_path / "demo"), "http://127.0.0.1:", "generate", "library list"):
        assert said in done.stdout
    assert "#code=" not in done.stdout
    assert "generate 100%" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_stops_everything(tmp_path: Path, number: signal.Signals) -> None:
    # Steps that take this long: it cannot be done before the signal comes, and would end with 0.
    slow = environ(tmp_path, ATELIER_SKETCH_STEP_DELAY="2s")
    with subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=slow) as demo:
        assert demo.stdout
        assert demo.stdout.readline().startswith("Atelier is up at")
        until(lambda: len(family(demo.pid)) >= 3, "the start of atelier up, a worker and its engine")
        children = family(demo.pid)
        demo.send_signal(number)
        demo.wait(2 * WAIT_SECONDS)
    until(none_alive(children), "the end of everything")
    assert demo.returncode == (130 if number != signal.SIGKILL else -signal.SIGKILL)


def test_a_port_in_use_is_named_with_the_remedy(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run(
            DEMO, capture_output=True, text=True, check=False, env=environ(tmp_path, ATELIER_GATEWAY_LISTEN=listen)
        )
    assert done.returncode == 1
    assert f"make demo: port {listen.rpartition(':')[2]} (gateway.listen)" in done.stderr
    assert "ATELIER_GATEWAY_LISTEN=" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = subprocess.run(DEMO, capture_output=True, text=True, check=False, env=environ(tmp_path / "file" / "data"))
    assert done.returncode == 1
    assert "choose another folder with ATELIER_DATA_DIR" in done.stderr
