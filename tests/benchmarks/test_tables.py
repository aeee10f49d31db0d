"""The tables of the load: every peer is in them, its better alternative counts, and they stand in the documents."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks import image_request, load_report, watchers
from benchmarks.__main__ import show
from benchmarks.comparison import PeerMissing
from benchmarks.load_report import markdown
from benchmarks.peers.environment import settings
from benchmarks.rounds import TEXT_JOBS
from benchmarks.uploads import STORES, WORKS
from benchmarks.uploads import table as uploads_table

ROOT = Path(__file__).resolve().parents[2]
PEERS = {"procrastinate": "procrastinate", "Celery": "celery", "bare gRPC echo": "echo", "PostgreSQL floor": "floor"}
WAITS = ("idle, p50", "idle, p99", "half load, p50", "half load, p99")


def taken(ours: float, theirs: float) -> dict[str, list[float]]:
    """Return the figures of two rounds in which each peer did `theirs`, its later alternative a little more."""
    names = [name for peer, section in PEERS.items() for name in load_report.names_of(peer, section)]
    found: dict[str, list[float]] = {}
    for kind in ("jobs/s", "load's share", *WAITS):
        found[f"Atelier: {kind}"] = found[f"{TEXT_JOBS}: {kind}"] = [ours, ours]
        for place, name in enumerate(names):
            found[f"{name}: {kind}"] = [theirs + place, theirs + place]
    return found


def test_all_peers_are_in_the_table_of_jobs() -> None:
    page = load_report.markdown(load_report.jobs_table(taken(4000.0, 1000.0), 2))
    better = {peer: load_report.names_of(peer, section)[-1] for peer, section in PEERS.items()}
    assert all(name in page for name in better.values())
    assert load_report.names_of("Celery", "celery")[0] not in page
    assert page.count("reached") == 2
    assert "≥ 4 x: MISSED" in page


def test_the_shorter_wait_is_the_better_one() -> None:
    page = load_report.markdown(load_report.dispatch_table(taken(10.0, 20.0), 2))
    assert load_report.names_of("Celery", "celery")[0] in page
    assert load_report.names_of("Celery", "celery")[-1] not in page
    assert "≤ 5 ms: MISSED" in page
    assert "≤ 25 ms: reached" in page


@pytest.mark.parametrize("kind", ["jobs/s", "half load, p99"])
def test_a_peer_that_did_not_run_is_named(kind: str) -> None:
    figures = taken(10.0, 20.0)
    missing = load_report.names_of("Celery", "celery")[1]
    del figures[f"{missing}: {kind}"]
    table = load_report.jobs_table if kind == "jobs/s" else load_report.dispatch_table
    with pytest.raises(PeerMissing, match=re.escape(missing)):
        table(figures, 2)


def test_memory_of_watchers_is_told_beside_bare_uvicorn() -> None:
    page = markdown(watchers.table({watchers.BARE: [10.0], watchers.JOB: [14.0], watchers.EVERYTHING: [30.0]}, 1))
    assert "≤ 1.5 x: reached" in page and "3.00 x" in page
    with pytest.raises(PeerMissing, match=watchers.BARE):
        watchers.table({watchers.JOB: [14.0], watchers.EVERYTHING: [30.0]}, 1)


@pytest.mark.parametrize("section", PEERS.values())
def test_the_settings_of_a_peer_cite_its_advice(section: str) -> None:
    text = (ROOT / "benchmarks" / "peers" / f"{section}.toml").read_text("utf-8")
    assert re.search(r"^# .*https://", text, re.MULTILINE)
    assert len(settings(section)["alternatives"]) >= 2


def test_the_document_shows_the_last_figures() -> None:
    page = (ROOT / "benchmarks" / "results" / "figures.md").read_text("utf-8")
    document = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    body = json.loads((ROOT / "benchmarks" / "results" / "figures.json").read_text("utf-8"))
    for title in ("## Durable jobs per second", "## Dispatch latency"):
        table = page.partition(title)[2].partition("\n## ")[0].strip()
        assert table
        assert table in document
    assert {"PostgreSQL", "Redis", "processor", "packages of the peers"} <= body["environment"].keys()


def test_figures_replace_those_before_them(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text(
        "before\n<!-- figures of make bench: begin -->\nold\n<!-- figures of make bench: end -->\nafter\n"
    )
    show("# Figures\n\nTaken.\n\n## One\n\n| 1 |\n", document)
    shown = document.read_text("utf-8")
    assert "old" not in shown
    assert "\n### One\n\n| 1 |\n" in shown
    assert shown.startswith("before\n")
    assert shown.endswith("end -->\nafter\n")
    document.write_text("nothing")
    with pytest.raises(ValueError, match="no marks"):
        show("# Figures\n", document)


def test_uploads_are_beside_the_plain_client_of_the_same_store() -> None:
    names = [f"{who}, {store}: {work}" for who in ("Atelier", "plain client") for store in STORES for work in WORKS]
    samples = {name: [60.0, 70.0] if name.startswith("Atelier") else [100.0, 100.0] for name in names}
    lines = uploads_table(samples, 2)
    assert [line.figure.name for line in lines] == names[: len(lines)]
    assert {round(line.judged, 2) for line in lines} == {0.65}
    assert "reached" in markdown(lines)
    with pytest.raises(PeerMissing, match="plain client, directory"):
        uploads_table({name: values for name, values in samples.items() if "plain client, directory" not in name}, 2)


def test_what_a_way_adds_is_the_difference_to_its_neighbour() -> None:
    direct = [10.0 + turn for turn in range(10)]
    samples = {name: [taken + 2.0 for taken in direct] for name in image_request.NAMES} | {image_request.RPCS: direct}
    rows = image_request.table(samples).splitlines()
    assert rows[2] == "| the RPCs directly | 14.5 ms | 10.1 .. 18.9 |  |  |"
    assert rows[4] == "| /openai/v1/images/generations | 16.5 ms | 12.1 .. 20.9 | 2.0 ms | 2.0 .. 2.0 |"
    assert len(rows) == 2 + len(image_request.NAMES)
