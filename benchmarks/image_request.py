"""One image request, from its first byte to the address of the image: by the RPCs directly, and by HTTP.

All ways take turns on one idle system, each turn in another order: what a way adds is a difference of neighbours.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx

from atelier.asset.v1 import asset_service_pb2, asset_service_pb2_grpc
from atelier.identity.v1 import identity_service_pb2, identity_service_pb2_grpc
from atelier.router.v1 import job_pb2, router_service_pb2, router_service_pb2_grpc
from atelier.type.v1 import generation_pb2
from benchmarks.queues import wait_until
from benchmarks.system import System, system

TURNS = 40
RPCS, NATIVE, OPENAI, FAL = "the RPCs directly", "/v1/generate-content", "/openai/v1/images/generations", "/fal/run"
NAMES = (RPCS, NATIVE, OPENAI, FAL)
_WARM_UP = 5
_PATIENCE_S = 20.0
_SIZE = 64
_PROMPT = "a lighthouse on a cliff"
_QUICK = {"ATELIER_SKETCH_STEP_DELAY": "0ms", "ATELIER_WORKER_WORKER_TYPES": "sdxl"}

Way = Callable[[], None]


def measure(folder: Path, turns: int = TURNS) -> dict[str, list[float]]:
    """Return the milliseconds that one request took, by its way, of each turn."""
    sys.stderr.write("one image request\n")
    samples: dict[str, list[float]] = {name: [] for name in NAMES}
    with system(folder / "image", _QUICK) as running, _ways(running) as ways:
        for turn in range(_WARM_UP + turns):
            for place in range(len(NAMES)):
                name = NAMES[(turn + place) % len(NAMES)]
                started = time.perf_counter()
                ways[name]()
                if turn >= _WARM_UP:
                    samples[name].append(1000 * (time.perf_counter() - started))
    return samples


def table(samples: Mapping[str, Sequence[float]]) -> str:
    """Return the figures as a Markdown table: what a way takes, and what it adds to the RPCs of the same turn."""
    rows = ["| way | median | p10 .. p90 | added to the RPCs, median | p10 .. p90 |", "|---|---|---|---|---|"]
    for name in NAMES:
        cells = [name, *_shown(samples[name])]
        added = [taken - direct for taken, direct in zip(samples[name], samples[RPCS], strict=True)]
        cells += ["", ""] if name == RPCS else _shown(added)
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _shown(values: Sequence[float]) -> list[str]:
    tenths = statistics.quantiles(values, n=10)
    return [f"{statistics.median(values):.1f} ms", f"{tenths[0]:.1f} .. {tenths[-1]:.1f}"]


@contextmanager
def _ways(running: System) -> Iterator[dict[str, Way]]:
    with (
        grpc.insecure_channel(running.targets["ROUTER"]) as router,
        grpc.insecure_channel(running.targets["ASSET"]) as asset,
        httpx.Client(
            base_url=running.url, headers={"Authorization": f"Bearer {running.key}"}, timeout=_PATIENCE_S
        ) as client,
    ):
        wait_until(lambda: _has_worker(client), "a worker")
        yield {
            RPCS: _directly(router, asset, running.key),
            NATIVE: lambda: _natively(client),
            OPENAI: lambda: _by_openai(client),
            FAL: lambda: _by_fal(client),
        }


def _has_worker(client: httpx.Client) -> bool:
    models = client.get("/v1/models").raise_for_status().json()["models"]
    return any(model["name"] == "sdxl" and model["connected_workers"] for model in models)


def _directly(router: grpc.Channel, asset: grpc.Channel, key: str) -> Way:
    """Return a way that submits, follows the job to its end and asks for its image, with one identity token."""
    identity = identity_service_pb2_grpc.IdentityServiceStub(router)
    token = identity.ExchangeKey(identity_service_pb2.ExchangeKeyRequest(secret=key)).identity_token
    metadata = (("authorization", f"Bearer {token}"),)
    jobs, assets = router_service_pb2_grpc.RouterServiceStub(router), asset_service_pb2_grpc.AssetServiceStub(asset)
    request = router_service_pb2.GenerateContentRequest(
        prompt=_PROMPT, model="sdxl", format=generation_pb2.FORMAT_IMAGE, width=_SIZE, height=_SIZE
    )

    def ask() -> None:
        job_id = jobs.GenerateContent(request, metadata=metadata, timeout=_PATIENCE_S).job_id
        watch = router_service_pb2.WatchJobRequest(job_id=job_id)
        state = job_pb2.JOB_STATE_UNSPECIFIED
        for event in jobs.WatchJob(watch, metadata=metadata, timeout=_PATIENCE_S):
            kind = event.WhichOneof("event")
            if kind in ("snapshot", "state"):
                state = getattr(event, kind).state
        found = assets.ListAssets(
            asset_service_pb2.ListAssetsRequest(job_id=job_id), metadata=metadata, timeout=_PATIENCE_S
        )
        _check(state == job_pb2.JOB_STATE_SUCCEEDED and bool(found.assets[0].url), RPCS)

    return ask


def _natively(client: httpx.Client) -> None:
    body = {"prompt": _PROMPT, "model": "sdxl", "format": "image", "width": _SIZE, "height": _SIZE}
    job_id = client.post("/v1/generate-content", json=body).raise_for_status().json()["job_id"]
    with client.stream("GET", f"/v1/jobs/{job_id}/events") as events:
        # The stream of a job ends with it.
        for _ in events.iter_lines():
            pass
    found = client.get("/v1/assets", params={"job_id": job_id}).raise_for_status().json()
    _check(bool(found["assets"][0]["url"]), NATIVE)


def _by_openai(client: httpx.Client) -> None:
    body = {"prompt": _PROMPT, "model": "sdxl", "size": f"{_SIZE}x{_SIZE}", "response_format": "url"}
    found: dict[str, Any] = client.post("/openai/v1/images/generations", json=body).raise_for_status().json()
    _check(bool(found["data"][0]["url"]), OPENAI)


def _by_fal(client: httpx.Client) -> None:
    body = {"prompt": _PROMPT, "image_size": {"width": _SIZE, "height": _SIZE}}
    found: dict[str, Any] = client.post("/fal/run/fal-ai/sdxl", json=body).raise_for_status().json()
    _check(bool(found["images"][0]["url"]), FAL)


def _check(is_made: bool, name: str) -> None:
    if not is_made:
        raise RuntimeError(f"{name} made no image")
