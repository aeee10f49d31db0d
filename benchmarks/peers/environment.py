"""What the peers need on this machine: their Python environment, Redis, their settings."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path
from typing import Any

from benchmarks.child import ROOT, ChildFailed

PYTHON = ROOT / "build" / "peers" / "bin" / "python"
_SETTINGS = Path(__file__).parent


def settings(peer: str) -> dict[str, Any]:
    """Return the settings file of a peer."""
    return tomllib.loads((_SETTINGS / f"{peer}.toml").read_text("utf-8"))


def python() -> str:
    """Return the interpreter of the peers' environment. Raises ChildFailed when it has not been made."""
    if not PYTHON.exists():
        raise ChildFailed(f"the peers' environment is missing at {PYTHON.parents[1]}: start with make bench")
    return str(PYTHON)


def redis_server() -> str:
    """Return the program. Raises ChildFailed when it is not installed."""
    found = shutil.which("redis-server")
    if found is None:
        raise ChildFailed("there is no redis-server: install the package redis-server")
    return found
