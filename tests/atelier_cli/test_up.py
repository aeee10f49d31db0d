"""`atelier up` starts everything, keeps it running, and leaves nothing behind however it ends."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from atelier_cli.commands.up import WORKER_GRACE_SECONDS
from atelier_cli.host import PACKAGES
from atelier_client import Atelier, Policy
from faults.ports import free_port
from tests.atelier_cli.conftest import Run
from tests.support.system import UpProcess, clean_environ, up_process

WAIT_SECONDS = 20.0
FREE_PORTS = [word for name in PACKAGES for word in ("--set", f"{name}.listen=127.0.0.1:0")]


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that happens in another process and tells nobody."""
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not happen within {WAIT_SECONDS:g} s")
        time.sleep(0.02)


def family(process_id: int) -> set[int]:
    """The processes that descend from one."""
    found: set[int] = set()
    for task in Path(f"/proc/{process_id}/task").glob("*"):
        # A thread may end while we look.
        with contextlib.suppress(OSError):
            for child in (task / "children").read_text().split():
                found |= {int(child)} | family(int(child))
    return found


def alive(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def none_alive(process_ids: set[int]) -> Callable[[], bool]:
    return lambda: not any(alive(process_id) for process_id in process_ids)


@pytest.fixture
def own_up(tmp_path: Path) -> Iterator[UpProcess]:
    with up_process(tmp_path / "data") as running:
        running.wait_for_workers()
        yield running


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_everything(own_up: UpProcess, number: signal.Signals) -> None:
    children = family(own_up.process.pid)
    assert len(children) >= 2, "a worker and its engine"
    assert own_up.stop(number) == 0
    until(none_alive(children), "the end of the worker")
    assert "Traceback" not in "".join(own_up.errors)


def test_nothing_outlives_a_host_that_is_killed(own_up: UpProcess) -> None:
    children = family(own_up.process.pid)
    assert children
    own_up.process.kill()
    own_up.process.wait()
    until(none_alive(children), "the end of the worker")


def test_a_second_signal_forces_the_end(own_up: UpProcess) -> None:
    children = family(own_up.process.pid)
    for process_id in children:
        os.kill(process_id, signal.SIGSTOP)  # It will not end when it is asked.
    own_up.process.send_signal(signal.SIGINT)
    until(lambda: any("Stopping" in line for line in own_up.errors), "the beginning of the end")
    began = time.monotonic()
    assert own_up.stop(signal.SIGINT) == 130
    assert time.monotonic() - began < WORKER_GRACE_SECONDS, "the worker was not waited for"
    until(none_alive(children), "the end of the worker")


def test_a_worker_that_dies_is_started_again_and_the_job_is_done(own_up: UpProcess) -> None:
    with own_up.client() as client:
        job_id = client.submit("a red fox", model="sdxl", format="image", quantity=3).job_id
        for event in client.watch(job_id, timeout=60):
            if event.progress is not None:
                break
        before = family(own_up.process.pid)
        for process_id in before:
            os.kill(process_id, signal.SIGKILL)
        job = client.wait(job_id, 60)
        assert (job.state, job.delivered) == ("succeeded", 3)
        assert len(client.assets(job_id)) == 3
    assert any("The worker was killed by SIGKILL" in line for line in own_up.errors)
    assert not before & family(own_up.process.pid)


def test_no_worker_starts_none_and_a_waiting_job_says_what_to_start(tmp_path: Path) -> None:
    with up_process(tmp_path, "--no-worker") as up, up.client() as client:
        assert family(up.process.pid) == set()
        job_id = client.submit("a red fox", model="sdxl", format="image").job_id
        assert "atelier worker" in client.get_job(job_id).waits_for


def test_what_is_printed_for_people(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "atelier_cli", "up", "--no-worker", "--data-dir", str(tmp_path)]
    command += FREE_PORTS
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean_environ()
    ) as up:
        assert up.stdout
        lines = [up.stdout.readline() for _ in range(5)]
        up.send_signal(signal.SIGINT)
        out, _ = up.communicate(timeout=WAIT_SECONDS)
    assert re.match(r"Atelier is up at http://127\.0\.0\.1:\d+; stop it with Ctrl-C\.", lines[0])
    attach = re.search(r"atelier worker --connect (\S+) --key-file (\S+)", lines[-1])
    assert attach
    assert f"router {attach[1]}," in lines[1]
    assert Path(attach[2]).read_text().startswith("atl_")
    assert "code" not in "".join(lines) + out, "the code is for terminals only"


def test_a_terminal_gets_an_address_that_signs_in_once(tmp_path: Path) -> None:
    terminal, side = pty.openpty()
    command = [sys.executable, "-m", "atelier_cli", "up", "--no-worker", "--data-dir", str(tmp_path)]
    command += FREE_PORTS
    with subprocess.Popen(command, stdout=side, stderr=subprocess.DEVNULL, env=clean_environ()) as up:
        os.close(side)
        with os.fdopen(terminal, "rb") as screen:
            url, _, code = screen.readline().decode().removeprefix("Open  ").strip().partition("/#code=")
            first = httpx.post(f"{url}/v1/sessions", json={"code": code})
            second = httpx.post(f"{url}/v1/sessions", json={"code": code})
            up.send_signal(signal.SIGTERM)
            up.wait(WAIT_SECONDS)
    assert (first.status_code, second.status_code) == (200, 401)
    assert first.json()["key"]["kind"] == "session"


def test_a_port_in_use_is_named_with_its_holder_and_the_remedy(run: Run, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("up", "--data-dir", str(tmp_path), *FREE_PORTS, "--set", f"library.listen=127.0.0.1:{port}")
    assert (done.code, done.out) == (2, "")
    assert f"port {port} (library.listen) is in use by" in done.err
    assert f"(process {os.getpid()})" in done.err
    assert "ATELIER_LIBRARY_LISTEN=" in done.err


def test_a_locked_data_folder_names_its_holder(up: UpProcess) -> None:
    with pytest.raises(RuntimeError) as caught, up_process(up.data_dir):
        pass
    said = str(caught.value)
    assert "ended with 2" in said
    assert f"process {up.process.pid}" in said
    assert "ATELIER_DATA_DIR" in said
    assert "Traceback" not in said


def test_a_data_folder_that_cannot_be_made_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = run("up", "--data-dir", str(tmp_path / "file" / "data"), *FREE_PORTS)
    assert done.code == 2
    assert str(tmp_path / "file" / "data") in done.err


def test_beyond_this_machine_needs_insecure(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)ended with 2: .*--insecure"):
        with up_process(tmp_path, "--no-worker", "--set", "gateway.listen=0.0.0.0:0"):
            pass
    with up_process(tmp_path, "--no-worker", "--insecure", "--set", "gateway.listen=0.0.0.0:0") as up:
        assert httpx.get(f"{up.url}/v1/health").status_code == 200


def test_signed_addresses_lead_to_the_gateway_that_listens(up: UpProcess) -> None:
    with up.client() as client:
        made = client.generate("a red fox", model="sdxl", format="image", quality="draft", steps=1, timeout=30)
        assert made.assets[0].url.startswith(f"{up.url}/media/")
        assert httpx.get(made.assets[0].url).status_code == 200


def test_watchers_come_back_after_a_restart_of_the_whole(tmp_path: Path) -> None:
    """A client that watches survives that everything is stopped and started again on the same port."""
    at_one_port = ("--set", f"gateway.listen=127.0.0.1:{free_port()}")
    with up_process(tmp_path, "--no-worker", *at_one_port) as first:
        url, key = first.url, first.key
        with first.client() as client:
            job_id = client.submit("a red fox", model="sdxl", format="image").job_id
            cursor = next(iter(client.watch(job_id))).cursor
    with up_process(tmp_path, *at_one_port):
        with Atelier(url, key, policy=Policy(reconnect_for=WAIT_SECONDS)) as client:
            events = list(client.watch(job_id, cursor, timeout=60))
    assert events[-1].job is not None
    assert events[-1].job.state == "succeeded"
    assert events[0].kind != "snapshot", "the cursor holds over a restart"
