"""`make bench`: takes every figure in one run, prints the tables, writes them with the environment beside them.

`make bench PART=jobs` takes only some: startup, progress, overhead, image, uploads, search, saving, relay,
watchers, jobs, dispatch (with commas).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import (
    environment,
    figures,
    footprint,
    image_request,
    latency,
    load_report,
    overhead,
    relay,
    saving,
    search,
    uploads,
    watchers,
)
from benchmarks.comparison import PeerMissing
from benchmarks.rounds import ROUNDS, Rounds
from tests.support.postgres import NoPostgres, PostgresServer

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENT = ROOT / "docs" / "benchmarks.md"
_BEGIN, _END = "<!-- figures of make bench: begin -->", "<!-- figures of make bench: end -->"
PARTS = (
    *("startup", "progress", "overhead", "image", "uploads", "search", "saving", "relay", "watchers"),
    *("jobs", "dispatch"),
)


def main() -> None:
    """Measure. Exits with 1, and says why, when something could not be measured; a missed target is only shown."""
    # So that whatever was started is ended, also when we are told to stop.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    parts, rounds = _arguments()
    try:
        page, body = measure(parts, rounds)
    except (PeerMissing, NoPostgres) as fault:
        sys.exit(f"the benchmark failed: {fault}")
    sys.stdout.write(page)
    if set(parts) == set(PARTS):
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "figures.md").write_text(page, "utf-8")
        (RESULTS / "figures.json").write_text(json.dumps(body, indent=1) + "\n", "utf-8")
        show(page, DOCUMENT)
        sys.stdout.write(f"\nwritten to {RESULTS.relative_to(ROOT)} and {DOCUMENT.relative_to(ROOT)}\n")


def measure(parts: Sequence[str], rounds: int) -> tuple[str, dict[str, Any]]:
    """Take the figures of some parts. Returns them as a page of Markdown and as what goes into the JSON file.

    Raises:
        PeerMissing: a peer could not be measured.
        NoPostgres: there is no PostgreSQL.
    """
    load_before = os.getloadavg()[0]
    sections: list[tuple[str, str]] = []
    body: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="atelier-bench-") as name:
        folder = Path(name)
        # PostgreSQL runs as somebody else when we are root, and has to get through.
        folder.chmod(0o755)
        alone = [*(footprint.measure(folder) if "startup" in parts else ())]
        alone += latency.measure(folder) if "progress" in parts else ()
        alone += overhead.measure(folder) if "overhead" in parts else ()
        alone += search.measure(folder) if "search" in parts else ()
        alone += saving.measure(folder) if "saving" in parts else ()
        if alone:
            sections.append(("Atelier alone", figures.table(alone)))
            body["alone"] = [vars(figure) for figure in alone]
        if "image" in parts:
            body["image"] = image_request.measure(folder)
            sections.append(("One image request", image_request.table(body["image"])))
        if "uploads" in parts:
            body["uploads"] = uploads.measure(folder, rounds)
            sections.append(("Upload and download", load_report.markdown(uploads.table(body["uploads"], rounds))))
        if "relay" in parts:
            body["relay"] = relay.measure(folder, rounds)
            sections.append(("Token relay", load_report.markdown(relay.table(body["relay"], rounds))))
        if "watchers" in parts:
            body["watchers"] = watchers.measure(folder, rounds)
            sections.append(("Idle watchers", load_report.markdown(watchers.table(body["watchers"], rounds))))
        durability: dict[str, str] = {}
        if {"jobs", "dispatch"} & set(parts):
            with PostgresServer(folder / "postgres", fsync=True) as server:
                durability = environment.durability(server.url())
                taken = Rounds(folder, server, parts).run(rounds)
            sections += _load_sections(taken.samples, parts, rounds)
            body["samples"] = dict(taken.samples)
    body["environment"] = {**environment.machine(load_before), **durability, **environment.versions(bool(durability))}
    return _page(sections, body["environment"], rounds), body


def _load_sections(samples: Any, parts: Sequence[str], rounds: int) -> list[tuple[str, str]]:
    sections = []
    if "jobs" in parts:
        sections.append(("Durable jobs per second", load_report.markdown(load_report.jobs_table(samples, rounds))))
    if "dispatch" in parts:
        lines = load_report.dispatch_table(samples, rounds)
        sections.append(("Dispatch latency", load_report.markdown(lines)))
    return sections


def _page(sections: Sequence[tuple[str, str]], described: dict[str, str], rounds: int) -> str:
    """Return everything as one page."""
    lines = ["# Figures", "", f"Taken {datetime.now(UTC):%Y-%m-%d} in one run of `make bench`, {rounds} rounds.", ""]
    for title, table in sections:
        lines += [f"## {title}", "", table, ""]
    lines += ["## Environment", "", *(f"- {name}: {value}" for name, value in described.items()), ""]
    return "\n".join(lines)


def show(page: str, document: Path) -> None:
    """Put the figures into the document, between its marks, a level lower than they are by themselves.

    Raises:
        ValueError: the marks are not there.
    """
    text = document.read_text("utf-8")
    before, begin, rest = text.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not end:
        raise ValueError(f"{document} has no marks for the figures: {_BEGIN} and {_END}")
    body = page.partition("\n")[2].strip().replace("\n## ", "\n### ")
    document.write_text(f"{before}{begin}\n\n{body}\n\n{end}{after}", "utf-8")


def _arguments() -> tuple[list[str], int]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--part", default=",".join(PARTS), help="what to take, with commas: " + ", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"rounds of load, {ROUNDS} for figures to quote")
    given = parser.parse_args()
    parts = [part.strip() for part in given.part.split(",") if part.strip()]
    unknown = [part for part in parts if part not in PARTS]
    if unknown or not parts:
        parser.error(f"part must be of {', '.join(PARTS)}, got {given.part!r}")
    if given.rounds < 1:
        parser.error(f"rounds must be at least 1, got {given.rounds}")
    return parts, given.rounds


if __name__ == "__main__":
    main()
