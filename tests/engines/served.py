"""`transformers serve` as a real upstream: a child process with a tiny model, on a free port of this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from faults.ports import free_port

START_SECONDS = 90.0
_STOP_SECONDS = 10.0


@contextmanager
def serving(model: Path) -> Iterator[str]:
    """Serve the model in a folder, and give the address of the API; what the server writes goes to stderr."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model), "--device", "cpu"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--no-compile"]
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environ, stdout=sys.stderr, start_new_session=True)
    try:
        _wait_until_healthy(process, port)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_until_healthy(process: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + START_SECONDS
    with httpx.Client(trust_env=False) as client:
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if client.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                    return
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"transformers serve did not start: it ended with {process.returncode}")
            # It says nowhere else that it is ready.
            time.sleep(0.1)
