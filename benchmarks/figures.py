"""Figures and the environment that they were taken in, as tables and as JSON."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

_PACKAGES = (
    "atelier-media",
    "grpcio",
    "protobuf",
    "SQLAlchemy",
    "aiosqlite",
    "starlette",
    "uvicorn",
    "numpy",
    "pillow",
)


@dataclass(frozen=True)
class Figure:
    """One figure: a median, its unit, the limit that it must not pass, and the samples behind it."""

    name: str
    median: float
    unit: str
    limit: float
    samples: list[float] = field(default_factory=list)

    @property
    def is_reached(self) -> bool:
        """Whether the median is within the limit."""
        return self.median <= self.limit


def environment() -> dict[str, str]:
    """Return what the figures depend on: machine, Python, versions, durability."""
    found = {"python": platform.python_version(), "system": f"{platform.system()} {platform.release()}"}
    found["processor"] = f"{platform.machine()}, {os.cpu_count()} cores"
    found["durability"] = "SQLite, WAL, synchronous=FULL; blobs in a local directory, fsync"
    return found | {package: importlib.metadata.version(package) for package in _PACKAGES}


def table(figures: Sequence[Figure]) -> str:
    """Return the figures as a Markdown table."""
    rows = ["| figure | median | min .. max | limit | |", "|---|---|---|---|---|"]
    for figure in figures:
        spread = f"{min(figure.samples):.3g} .. {max(figure.samples):.3g}" if figure.samples else ""
        verdict = "reached" if figure.is_reached else "MISSED"
        median, limit = (f"{value:.3g} {figure.unit}" for value in (figure.median, figure.limit))
        rows.append(f"| {figure.name} | {median} | {spread} | {limit} | {verdict} |")
    return "\n".join(rows)


def write(figures: Sequence[Figure], folder: Path) -> Path:
    """Write figures and environment as Markdown and JSON. Returns the Markdown file."""
    folder.mkdir(parents=True, exist_ok=True)
    env = environment()
    lines = [f"- {name}: {value}" for name, value in env.items()]
    taken = f"Taken {datetime.now(UTC):%Y-%m-%d}, all in one run of `make bench`."
    page = folder / "first-round.md"
    page.write_text("\n".join(["# Figures", "", taken, "", table(figures), "", *lines, ""]), "utf-8")
    body = {"environment": env, "figures": [asdict(figure) for figure in figures]}
    (folder / "first-round.json").write_text(json.dumps(body, indent=2) + "\n", "utf-8")
    return page
