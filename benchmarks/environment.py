"""What figures depend on: the machine, its load, versions, and what a commit means to each of those measured."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import psycopg

from benchmarks.peers.environment import PYTHON, redis_server, settings

_OURS = (
    "atelier-media",
    "grpcio",
    "protobuf",
    "SQLAlchemy",
    "psycopg",
    "aiosqlite",
    "starlette",
    "uvicorn",
    "numpy",
    "pillow",
)
_THEIRS = ("celery", "kombu", "redis", "procrastinate", "psycopg")
_SHOWN = ("fsync", "synchronous_commit", "full_page_writes", "wal_sync_method", "shared_buffers")


def machine(load_before: float) -> dict[str, str]:
    """Return the machine, and how busy it was before anything was started."""
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB",
        "system": f"{platform.system()} {platform.release()}",
        "load average before": f"{load_before:.2f}",
    }


def durability(database_url: str) -> dict[str, str]:
    """Return what a commit means to PostgreSQL, to Redis and to the blobs of Atelier."""
    with psycopg.connect(database_url) as connection:
        shown = {name: connection.execute(f"SHOW {name}").fetchone() for name in (*_SHOWN, "server_version")}
    values = {name: row[0] if row else "" for name, row in shown.items()}
    told = ", ".join(f"{name}={values[name]}" for name in _SHOWN)
    redis = ", ".join(f"{name}={value}" for name, value in settings("celery")["redis"].items())
    version = subprocess.run([redis_server(), "--version"], capture_output=True, text=True, check=True).stdout
    return {
        "PostgreSQL": f"{values['server_version']}, {told}",
        "Redis": f"{version.split('v=')[1].split()[0]}, {redis}",
        "blobs of Atelier": "a local directory, each file and its folder synced",
    }


def versions(with_peers: bool) -> dict[str, str]:
    """Return the versions of Python, of our packages and, where they were measured, of the peers'."""
    ours = {package: importlib.metadata.version(package) for package in _OURS}
    found = {"python": platform.python_version(), "packages": _listed(ours)}
    if with_peers:
        script = f"import importlib.metadata as m; print(*(m.version(p) for p in {_THEIRS!r}))"
        told = subprocess.run([str(PYTHON), "-c", script], capture_output=True, text=True, check=True).stdout.split()
        found["packages of the peers"] = _listed(dict(zip(_THEIRS, told, strict=True)))
    return found


def _listed(packages: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in packages.items())


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
