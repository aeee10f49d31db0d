"""A whole Atelier for tests: every service in this process, a real worker as a child; or `atelier up` itself."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from atelier_cli.commands.up import worker_environ
from atelier_cli.context import public_url
from atelier_cli.host import PACKAGES, Host
from atelier_cli.worker_process import WorkerProcess
from atelier_client import AsyncAtelier, Atelier, Policy
from faults.ports import free_port
from service_kit.settings import Settings, load

START_SECONDS = 30.0
STOP_SECONDS = 20.0
PATIENT = Policy(reconnect_for=20.0)


def settings_for(data_dir: Path, changes: Mapping[str, str]) -> dict[str, str]:
    """Return the settings of a test system, by name: free ports, no pauses in the sketch engine."""
    flags = {f"{name}.listen": "127.0.0.1:0" for name in PACKAGES}
    flags |= {
        "core.data_dir": str(data_dir),
        "sketch.step_delay": "0ms",
        "gateway.listen": f"127.0.0.1:{free_port()}",
    }
    return flags | dict(changes)


@dataclass
class System:
    """A running system. `host` can stop and start its services, `worker` is the child process."""

    host: Host
    worker: WorkerProcess | None
    settings: Settings

    @property
    def url(self) -> str:
        """The gateway's address."""
        return self.settings.core.public_url

    def key(self, name: str = "admin") -> str:
        """Return the text of a key file that the first start wrote: admin, gateway, library or worker."""
        return (self.settings.keys_dir / f"{name}.key").read_text("utf-8").strip()

    def client(self, key: str | None = None) -> AsyncAtelier:
        """Return a client, for the operator unless another key is given; use it with `async with`."""
        return AsyncAtelier(self.url, self.key() if key is None else key, policy=PATIENT)

    async def worker_connected(self, worker_type: str = "sdxl") -> None:
        """Wait until a worker of a type is connected."""
        async with asyncio.timeout(START_SECONDS), self.client() as client:
            # The API tells it only to those who ask.
            while not any(m.worker_type == worker_type and m.connected_workers for m in await client.models()):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def kill_worker(self) -> None:
        """Kill the worker and its engines with SIGKILL; it is started again by itself."""
        if self.worker is not None:
            self.worker.kill()


@asynccontextmanager
async def running_system(data_dir: Path, *, worker: bool = True, **changes: str) -> AsyncIterator[System]:
    """Run every service in this event loop, and a worker as a child; `changes` are settings as `section__name`."""
    flags = settings_for(data_dir, {name.replace("__", "."): text for name, text in changes.items()})
    flags["core.public_url"] = public_url(load(flags))
    host = Host(lambda told: load({**flags, **told}), flags)
    system: System | None = None
    try:
        async with asyncio.timeout(START_SECONDS):
            await host.start()
        system = System(host, None, host.settings)
        if worker:
            system.worker = WorkerProcess(worker_environ(system.settings), lambda line: None)
            system.worker.start()
            await system.worker_connected()
        yield system
    finally:
        if system is not None and system.worker is not None:
            await system.worker.stop(STOP_SECONDS)
        await host.stop()


def clean_environ(changes: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment without the shell's own settings of Atelier, with changes."""
    return {name: text for name, text in os.environ.items() if not name.startswith("ATELIER_")} | dict(changes or {})


@dataclass
class UpProcess:
    """A running `atelier up`: its process, its address, its data folder, and what it wrote on stderr so far."""

    process: subprocess.Popen[str]
    url: str
    targets: Mapping[str, str]
    data_dir: Path
    errors: list[str] = field(default_factory=list)

    @property
    def key(self) -> str:
        """The operator's key."""
        return (self.data_dir / "keys" / "admin.key").read_text("utf-8").strip()

    def client(self) -> Atelier:
        """Return a client for the operator; use it with `with`."""
        return Atelier(self.url, self.key, policy=PATIENT)

    def wait_for_workers(self) -> None:
        """Wait until every row of the routing table has a worker."""
        end = time.monotonic() + START_SECONDS
        with self.client() as client:
            # The API tells it only to those who ask.
            while not all(model.connected_workers for model in client.models()):
                if time.monotonic() > end:
                    raise RuntimeError(f"no worker connected: {''.join(self.errors)}")
                time.sleep(0.02)

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """Ask it to end, and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(STOP_SECONDS)


@contextmanager
def up_process(data_dir: Path, *arguments: str, environ: Mapping[str, str] | None = None) -> Iterator[UpProcess]:
    """Run `atelier up --json` on free ports, and end it with all that it started."""
    flags = {f"{name}.listen": "127.0.0.1:0" for name in PACKAGES} | {"sketch.step_delay": "0ms"}
    settings = [word for name, value in flags.items() for word in ("--set", f"{name}={value}")]
    command: Sequence[str] = (
        *(sys.executable, "-m", "atelier_cli", "up", "--json", "--data-dir", str(data_dir)),
        *settings,
        *arguments,
    )
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean_environ(environ)
    )
    errors: list[str] = []
    reader = threading.Thread(target=lambda: errors.extend(process.stderr or ()), name="up-stderr")
    reader.start()
    watchdog = threading.Timer(START_SECONDS, process.kill)
    watchdog.start()
    try:
        line = process.stdout.readline() if process.stdout else ""
        watchdog.cancel()
        if not line:
            process.wait(STOP_SECONDS)
            reader.join()
            raise RuntimeError(f"`atelier up` ended with {process.returncode}: {''.join(errors)}")
        told = json.loads(line)
        yield UpProcess(process, told["url"], told["targets"], data_dir, errors)
    finally:
        watchdog.cancel()
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        reader.join()
        if process.stdout:
            process.stdout.close()
        if process.stderr:
            process.stderr.close()
