"""One part alone: each service, and one more worker."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from atelier_cli.commands.serve import is_worker_file
from tests.atelier_cli.test_up import WAIT_SECONDS, until
from tests.support.system import UpProcess, clean_environ


@pytest.mark.parametrize("service", ["asset", "router", "library", "gateway"])
def test_each_service_starts_alone(tmp_path: Path, service: str) -> None:
    command = [sys.executable, "-m", "atelier_cli", "serve", service, "--data-dir", str(tmp_path)]
    command += ["--set", f"{service}.listen=127.0.0.1:0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean_environ()
    ) as process:
        assert process.stdout
        line = process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=WAIT_SECONDS)
    assert re.match(rf"The {service} service listens on 127\.0\.0\.1:[1-9]\d*; stop it with Ctrl-C\.", line), errors
    assert process.returncode == 0
    assert "Traceback" not in errors


def test_another_worker_is_attached_with_an_address_and_a_key(up: UpProcess, tmp_path: Path) -> None:
    key_file = up.data_dir / "keys" / "worker.key"
    command = [
        sys.executable,
        "-m",
        "atelier_cli",
        "worker",
        "--connect",
        up.targets["router"],
        "--key-file",
        str(key_file),
    ]
    command += ["--types", "chat", "--slots", "2", "--name", "second", "--data-dir", str(tmp_path)]
    command += ["--set", "worker.labels=room=attic,gpu=4090"]

    def chat_workers() -> int:
        return next(model.connected_workers for model in client.models() if model.worker_type == "chat")

    with up.client() as client:
        assert chat_workers() == 1
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=clean_environ()) as process:
            until(lambda: chat_workers() == 2, "the second worker's connection")
            assert all(model.connected_workers == 1 for model in client.models() if model.worker_type == "sdxl")
            (second,) = (worker for worker in client.workers() if worker.name == "second")
            assert (second.slots, second.labels) == (2, {"room": "attic", "gpu": "4090"})
            process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT_SECONDS) == 0
        until(lambda: chat_workers() == 1, "the second worker's end")


def test_a_file_of_settings_is_told_from_one_of_workers(tmp_path: Path) -> None:
    settings, workers = tmp_path / "atelier.toml", tmp_path / "attic.toml"
    settings.write_text('[worker]\nconnect = "127.0.0.1:7401"\n')
    workers.write_text('[[engine]]\nengine = "sketch"\n')
    assert [is_worker_file(file) for file in (settings, workers)] == [False, True]
    assert is_worker_file(tmp_path / "worker.toml")
    assert not is_worker_file(tmp_path / "nothing.toml")
