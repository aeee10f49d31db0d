"""From the submission of a job to the first progress that its owner sees, through the gateway, with an idle engine."""

from __future__ import annotations

import json
import statistics
import threading
import time
from pathlib import Path
from queue import Queue
from typing import Any

import httpx

from benchmarks.figures import Figure
from benchmarks.system import System, system

_SUBMITS = 200
_WARM_UP = 10
_PATIENCE_S = 10.0


def measure(folder: Path) -> list[Figure]:
    """Submit 200 jobs, one at a time, and time the first progress of each on the owner's event stream."""
    with system(folder / "latency") as running:
        seen: Queue[tuple[str, float]] = Queue()
        stream = threading.Thread(target=_follow, args=(running, seen), daemon=True)
        stream.start()
        with httpx.Client(base_url=running.url, headers=_headers(running), timeout=_PATIENCE_S) as client:
            _wait_worker(client)
            samples = [_one(client, seen) for _ in range(_WARM_UP + _SUBMITS)][_WARM_UP:]
    samples_ms = [sample * 1000 for sample in samples]
    ninety_nine = statistics.quantiles(samples_ms, n=100)[98]
    name = f"submit to first progress, p50 of {_SUBMITS} (p99 {ninety_nine:.1f} ms)"
    return [Figure(name, statistics.median(samples_ms), "ms", limit=20.0, samples=samples_ms)]


def _one(client: httpx.Client, seen: Queue[tuple[str, float]]) -> float:
    """Return the seconds from the submission of one job to its first progress, then cancel it and see it end."""
    body = {"prompt": "a lighthouse on a cliff", "model": "sdxl", "format": "image", "quality": "draft"}
    started = time.perf_counter()
    job_id = client.post("/v1/generate-content", json=body).raise_for_status().json()["job_id"]
    while True:
        progressed, at = seen.get(timeout=_PATIENCE_S)
        if progressed == job_id:
            break
    client.post(f"/v1/jobs/{job_id}/cancel", json={})
    _wait_idle(client)
    return at - started


def _follow(running: System, seen: Queue[tuple[str, float]]) -> None:
    with (
        httpx.Client(headers=_headers(running), timeout=None) as client,  # noqa: S113 - a stream without end
        client.stream("GET", f"{running.url}/v1/events") as reply,
    ):
        event = ""
        for line in reply.iter_lines():
            if line.startswith("event:"):
                event = line.removeprefix("event:").strip()
            elif line.startswith("data:") and event == "jobs.progress":
                message: dict[str, Any] = json.loads(line.removeprefix("data:"))
                seen.put((message["progress"]["job_id"], time.perf_counter()))


def _wait_worker(client: httpx.Client) -> None:
    _wait(lambda: all(model["connected_workers"] for model in client.get("/v1/models").json()["models"]))


def _wait_idle(client: httpx.Client) -> None:
    _wait(lambda: all(model["free_slots"] for model in client.get("/v1/models").json()["models"]))
    # The engine notices a cancel at its next step.
    time.sleep(0.1)


def _wait(condition: Any) -> None:
    deadline = time.perf_counter() + _PATIENCE_S
    while not condition():
        if time.perf_counter() > deadline:
            raise RuntimeError("the system was not ready in time")
        time.sleep(0.01)


def _headers(running: System) -> dict[str, str]:
    return {"Authorization": f"Bearer {running.key}"}
