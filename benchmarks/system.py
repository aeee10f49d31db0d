"""A whole system as a user starts it: `atelier up` in a folder of its own, on ports of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

_READY_WITHIN_S = 30.0
_PARTS = ("GATEWAY", "ROUTER", "ASSET", "LIBRARY")


@dataclass(frozen=True)
class System:
    """A running system: where it is, its key, its first process, and the seconds until its health route said 200.

    `targets` says where its parts are, as host:port by their names in capital letters.
    """

    url: str
    key: str
    process_id: int
    ready_after_s: float
    targets: dict[str, str]


@contextmanager
def system(folder: Path, settings: Mapping[str, str] = MappingProxyType({})) -> Iterator[System]:
    """Start `atelier up` in a folder, with more variables of the environment, and stop it at the end."""
    ports = dict(zip(_PARTS, free_ports(len(_PARTS)), strict=True))
    targets = {part: f"127.0.0.1:{port}" for part, port in ports.items()}
    environment = os.environ | {f"ATELIER_{part}_LISTEN": target for part, target in targets.items()}
    environment |= {"ATELIER_DATA_DIR": str(folder), "ATELIER_LOG_LEVEL": "warning", **settings}
    url = f"http://127.0.0.1:{ports['GATEWAY']}"
    command = [str(Path(sys.executable).with_name("atelier")), "up"]
    started = time.perf_counter()
    with (folder.parent / f"{folder.name}.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        _wait_healthy(url, process)
        ready_after_s = time.perf_counter() - started
        key = (folder / "keys" / "admin.key").read_text("utf-8").strip()
        yield System(url, key, process.pid, ready_after_s, targets)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(_READY_WITHIN_S)


def process_tree(process_id: int) -> list[int]:
    """Return a process and all that it has started, directly or not."""
    found = [process_id]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text("ascii").split()]
    return found


def proportional_set_size_mb(process_id: int) -> float:
    """Return the proportional set size of a process tree in MB (10^6 bytes), as the kernel counts it."""
    total_kib = 0
    for member in process_tree(process_id):
        for line in Path(f"/proc/{member}/smaps_rollup").read_text("ascii").splitlines():
            if line.startswith("Pss:"):
                total_kib += int(line.split()[1])
    return total_kib * 1024 / 1e6


def cpu_seconds_of(process_id: int) -> float:
    """Return the processor time that a process tree has used, the ended children of its members included."""
    ticks = 0
    for member in process_tree(process_id):
        # After the name, which is in brackets: fields 14 to 17 of proc(5), own time and that of ended children.
        try:
            stat = Path(f"/proc/{member}/stat").read_text("utf-8")
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended, and counts for its parent now
        ticks += sum(int(field) for field in stat.rpartition(")")[2].split()[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def _wait_healthy(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.perf_counter() + _READY_WITHIN_S
    while time.perf_counter() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"atelier up ended with {process.returncode}; its log says why")
        if is_healthy(url):
            return
        time.sleep(0.005)
    raise RuntimeError(f"atelier up was not healthy within {_READY_WITHIN_S:g} s; its log says why")


def is_healthy(url: str) -> bool:
    """Tell whether a gateway says that all it needs is there."""
    try:
        with urllib.request.urlopen(f"{url}/v1/health", timeout=1) as reply:  # noqa: S310 - loopback
            return bool(reply.status == 200)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


def free_ports(count: int) -> list[int]:
    """Return ports that were free a moment ago."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()
