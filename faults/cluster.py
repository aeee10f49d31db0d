"""The processes of one schedule: routers, asset services, libraries and workers on one PostgreSQL, with proxies."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from atelier_worker.engine_process import end_left_behind
from faults.engine import FOLDER_VARIABLE
from faults.ports import free_port
from faults.proxy import Link
from faults.schedule import ASSET_SERVICES, LIBRARIES, ROUTERS, WORKERS

ROOT = Path(__file__).resolve().parents[1]
# Short, so that what a death leaves behind is taken up again soon; not so short that a busy machine loses leases.
LEASE_TTL_S = 2.5
_SETTINGS = {
    "ROUTER_LEASE_TTL": f"{int(LEASE_TTL_S * 1000)}ms",
    "ROUTER_HEARTBEAT_INTERVAL": "400ms",
    "ROUTER_LEASE_ACK_TIMEOUT": "1s",
    "ROUTER_RETRY_BACKOFF": "50ms",
    # Faults burn attempts. A job that fails for that alone would hide a job that was lost.
    "ROUTER_MAX_ATTEMPTS": "30",
    "ROUTER_MAX_LEASES": "100",
    "ASSET_EXPIRY_INTERVAL": "3s",
    "LIBRARY_HOLD_TTL": "5s",
    "WORKER_ENGINE": "faults.engine:FaultsEngine",
    "WORKER_WORKER_TYPES": "chat,sdxl,wan",
    "WORKER_SLOTS": "3",
    "DATABASE_CONNECTIONS": "8",
}


class Part:
    """One process that may die and be started again."""

    def __init__(self, name: str, module: str, environment: dict[str, str], folder: Path) -> None:
        """Describe it; `start` starts it. What it writes goes to `<folder>/<name>.log`."""
        self.name = name
        self.module = module
        self.environment = environment
        self._log = folder / f"{name}.log"
        self._process: asyncio.subprocess.Process | None = None
        self._expected: set[int] = set()
        self.surprises: list[str] = []

    @property
    def runs(self) -> bool:
        """Whether its process is alive, paused or not."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it unless it runs. It ends when this process does, however that dies."""
        if self.runs:
            return
        self._notice_end()
        with self._log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "atelier_cli.attached", self.module),
                env=self.environment,
                stdin=asyncio.subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    async def kill(self) -> None:
        """Kill it with SIGKILL; what it has started must notice by itself."""
        process = self._process
        if process is not None and process.returncode is None:
            self._expected.add(process.pid)
            process.kill()
            await process.wait()

    def pause(self) -> int:
        """Stop it with SIGSTOP. Returns its process id, 0 when it does not run."""
        if self._process is None or self._process.returncode is not None:
            return 0
        self._process.send_signal(signal.SIGSTOP)
        return self._process.pid

    def resume(self, pid: int) -> None:
        """Let it go on if it is still the process that was paused."""
        if self._process is not None and self._process.returncode is None and self._process.pid == pid:
            self._process.send_signal(signal.SIGCONT)

    async def end(self) -> None:
        """Kill it and everything that it has started."""
        self._notice_end()
        process = self._process
        if process is None:
            return
        if process.returncode is not None:
            end_left_behind(process.pid)
            return
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()

    def _notice_end(self) -> None:
        process = self._process
        if process is not None and process.returncode is not None and process.pid not in self._expected:
            self.surprises.append(f"{self.name} ended by itself with code {process.returncode}")
            self._expected.add(process.pid)


class Cluster:
    """All parts and links below one folder."""

    def __init__(self, folder: Path, database_url: str, *, on_uploaded: Callable[[int], None]) -> None:
        """Choose ports; nothing runs yet. `on_uploaded` hears how many bytes workers sent to the asset services."""
        self.folder = folder
        self.data = folder / "data"
        # One at a time: whoever kills PostgreSQL also starts it again.
        self.postgres_turn = asyncio.Lock()
        self.engine_folder = folder / "engine"
        self._base = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "ATELIER_DATA_DIR": str(self.data),
            "ATELIER_DATABASE_URL": database_url,
            FOLDER_VARIABLE: str(self.engine_folder),
        } | {f"ATELIER_{name}": value for name, value in _SETTINGS.items()}
        routers = [("127.0.0.1", free_port()) for _ in range(ROUTERS)]
        assets = [("127.0.0.1", free_port()) for _ in range(ASSET_SERVICES)]
        libraries = [("127.0.0.1", free_port()) for _ in range(LIBRARIES)]
        self.links = {link.name: link for link in _links(routers, assets, libraries, on_uploaded)}
        self.routers = [self._router(number, port) for number, (_, port) in enumerate(routers)]
        self.asset_services = [self._asset_service(number, port) for number, (_, port) in enumerate(assets)]
        self.libraries = [self._library(number, port) for number, (_, port) in enumerate(libraries)]
        self.workers = [self._worker(number) for number in range(WORKERS)]

    @property
    def parts(self) -> list[Part]:
        """Every part."""
        return [*self.asset_services, *self.routers, *self.workers, *self.libraries]

    async def start(self) -> None:
        """Start the proxies and the services; the workers follow when there is a key for them."""
        for folder in (self.data, self.engine_folder):
            folder.mkdir(parents=True, exist_ok=True)
        for link in self.links.values():
            await link.start()
        await asyncio.gather(*(part.start() for part in [*self.asset_services, *self.routers, *self.libraries]))

    async def start_workers(self) -> None:
        """Start the workers."""
        await asyncio.gather(*(worker.start() for worker in self.workers))

    async def end(self) -> list[str]:
        """Kill everything. Returns a sentence for each process that had ended by itself."""
        # Who asks goes before whom it asks: a call that failed in between would be noted as one that was tried.
        await asyncio.gather(*(part.end() for part in reversed(self.parts)))
        await asyncio.gather(*(link.close() for link in self.links.values()))
        return [sentence for part in self.parts for sentence in part.surprises]

    def _router(self, number: int, port: int) -> Part:
        settings = {
            "ATELIER_ROUTER_LISTEN": f"127.0.0.1:{port}",
            "ATELIER_ROUTER_ASSET_TARGET": self.links[f"settle-{number}"].target,
            "ATELIER_ROUTER_UPLOAD_ENDPOINT": self.links[f"upload-{number}"].target,
        }
        return Part(f"router-{number}", "router_service", self._base | settings, self.folder)

    def _asset_service(self, number: int, port: int) -> Part:
        settings = {"ATELIER_ASSET_LISTEN": f"127.0.0.1:{port}"}
        return Part(f"asset-{number}", "asset_service", self._base | settings, self.folder)

    def _library(self, number: int, port: int) -> Part:
        settings = {
            "ATELIER_LIBRARY_LISTEN": f"127.0.0.1:{port}",
            "ATELIER_LIBRARY_ASSET_TARGET": self.links[f"hold-{number}"].target,
            "ATELIER_LIBRARY_IDENTITY_TARGET": self.links[f"client-{number % ROUTERS}"].target,
        }
        return Part(f"library-{number}", "library_service", self._base | settings, self.folder)

    def _worker(self, number: int) -> Part:
        settings = {
            "ATELIER_WORKER_CONNECT": self.links[f"worker-{number}"].target,
            "ATELIER_WORKER_NAME": f"worker-{number}",
            "ATELIER_WORKER_SPOOL_DIR": str(self.folder / f"spool-{number}"),
        }
        return Part(f"worker-{number}", "atelier_worker", self._base | settings, self.folder)


def _links(
    routers: list[tuple[str, int]],
    assets: list[tuple[str, int]],
    libraries: list[tuple[str, int]],
    on_uploaded: Callable[[int], None],
) -> Iterator[Link]:
    """Give one link for each client of each replica; when the preferred replica is down, the other one answers."""
    for number in range(ROUTERS):
        yield Link(f"client-{number}", free_port(), _turned(routers, number))
        yield Link(f"settle-{number}", free_port(), _turned(assets, number))
        yield Link(f"upload-{number}", free_port(), _turned(assets, number), on_sent=on_uploaded)
    for number in range(ASSET_SERVICES):
        yield Link(f"media-{number}", free_port(), _turned(assets, number))
    for number in range(LIBRARIES):
        yield Link(f"shelf-{number}", free_port(), _turned(libraries, number))
        yield Link(f"hold-{number}", free_port(), _turned(assets, number))
    for number in range(WORKERS):
        yield Link(f"worker-{number}", free_port(), _turned(routers, number))
    yield Link("hostile", free_port(), routers)


def _turned(targets: list[tuple[str, int]], number: int) -> list[tuple[str, int]]:
    first = number % len(targets)
    return [*targets[first:], *targets[:first]]
