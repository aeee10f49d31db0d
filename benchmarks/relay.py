"""Tokens on their way from an upstream to a client: through Atelier, and through LiteLLM's proxy in front of the same.

Atelier is `atelier up` on SQLite with one worker whose engine asks the upstream: each stream is a durable job. The
proxy runs as its page on production has it; the better of one worker and one for each processor counts. Everybody is
read by the same client, in the same rounds; every stream is checked to have all of its tokens.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.child import ROOT, Child, ChildFailed, end_process
from benchmarks.comparison import Series, Target, better, percentile, ratio, require_all
from benchmarks.load.relay_engine import UPSTREAM
from benchmarks.load.upstream import TOKENS
from benchmarks.load_report import Line
from benchmarks.system import free_ports, system

STREAMS = 32
PROXY = ROOT / "build" / "litellm" / "bin" / "litellm"
ATELIER, DIRECT = "Atelier", "the upstream itself"
PROXIES = {"LiteLLM, 1 worker": 1, "LiteLLM, a worker each processor": os.cpu_count() or 1}
_TOTALS = {ATELIER: 960, DIRECT: 3200} | dict.fromkeys(PROXIES, 192)
_SINGLES = 40
_WARM_UP = 64
_READY_WITHIN_S = 90.0
# As its page on production has it; prices are not asked for over the network.
_PRODUCTION = {"LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}


@dataclass(frozen=True)
class Relay:
    """Where completions are read."""

    port: int
    path: str
    key: str = "none"


def measure(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Return tokens a second and milliseconds to the first token by name, one for each round: everybody in turn.

    Raises:
        ChildFailed: somebody did not do what it was told.
    """
    samples: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds):
        with ExitStack() as stack:
            here = folder / f"relay-{number}"
            here.mkdir()
            upstream = stack.enter_context(_upstream())
            client = Child("streams", [sys.executable, "-m", "benchmarks.load.streams"], here / "streams.log")
            stack.callback(client.end)
            _take(samples, DIRECT, client, Relay(upstream, "/v1/chat/completions"))
            with _atelier(here / "atelier", upstream) as relay:
                _take(samples, ATELIER, client, relay)
            for name, workers in PROXIES.items():
                with _proxy(here, upstream, workers) as relay:
                    _take(samples, name, client, relay)
    return dict(samples)


def table(samples: Mapping[str, Sequence[float]], rounds: int) -> list[Line]:
    """Return what a stream costs: tokens a second at 32 streams, and the milliseconds that a first token waits longer.

    Raises:
        PeerMissing: somebody was not measured in every round.
    """
    names = [ATELIER, *PROXIES, DIRECT]
    require_all(samples, [f"{name}: {kind}" for name in names for kind in ("tokens/s", "first ms")], rounds)
    speeds = {
        name: Series(f"{name}, {STREAMS} streams", "tokens/s", tuple(samples[f"{name}: tokens/s"])) for name in names
    }
    theirs = better([speeds[name] for name in PROXIES])
    added = {
        name: Series(f"{name}, first token later by", "ms", _differences(samples, name)) for name in (ATELIER, *PROXIES)
    }
    slower = better([added[name] for name in PROXIES], higher=False)
    return [
        Line(speeds[ATELIER]),
        Line(theirs, ratio(speeds[ATELIER], theirs), Target(10.0)),
        Line(speeds[DIRECT], ratio(speeds[ATELIER], speeds[DIRECT])),
        Line(added[ATELIER]),
        Line(slower, ratio(added[ATELIER], slower), Target(0.4, at_least=False)),
    ]


def _differences(samples: Mapping[str, Sequence[float]], name: str) -> tuple[float, ...]:
    pairs = zip(samples[f"{name}: first ms"], samples[f"{DIRECT}: first ms"], strict=True)
    return tuple(relayed - direct for relayed, direct in pairs)


def _take(samples: dict[str, list[float]], name: str, client: Child, relay: Relay) -> None:
    asked = {"port": relay.port, "path": relay.path, "key": relay.key}
    client.ask("run", **asked, streams=STREAMS, total=_WARM_UP)
    taken = client.ask("run", **asked, streams=STREAMS, total=_TOTALS[name])
    samples[f"{name}: tokens/s"].append(_TOTALS[name] * TOKENS / taken["seconds"])
    alone = client.ask("run", **asked, streams=1, total=_SINGLES)
    samples[f"{name}: first ms"].append(percentile(alone["first_ms"], 50))


@contextmanager
def _upstream() -> Iterator[int]:
    command = [sys.executable, "-m", "benchmarks.load.upstream"]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        if process.stdout is None:
            raise ChildFailed("the upstream has no pipes")
        yield int(json.loads(process.stdout.readline())["port"])
    finally:
        process.communicate()


@contextmanager
def _atelier(folder: Path, upstream: int) -> Iterator[Relay]:
    settings = {
        UPSTREAM: str(upstream),
        "PYTHONPATH": str(ROOT),
        "ATELIER_WORKER_ENGINE": "benchmarks.load.relay_engine:RelayEngine",
        "ATELIER_WORKER_SLOTS": str(STREAMS),
    }
    with system(folder, settings) as running:
        _wait(f"{running.url}/v1/models", running.key, lambda body: '"connected_workers":1' in body.replace(" ", ""))
        yield Relay(int(running.url.rpartition(":")[2]), "/openai/v1/chat/completions", running.key)


@contextmanager
def _proxy(folder: Path, upstream: int, workers: int) -> Iterator[Relay]:
    if not PROXY.exists():
        raise ChildFailed(f"LiteLLM is missing at {PROXY.parents[1]}: start with make bench")
    (port,) = free_ports(1)
    configuration = folder / "litellm.yaml"
    model = {"model": "openai/chat", "api_base": f"http://127.0.0.1:{upstream}/v1", "api_key": "none"}
    # JSON is YAML.
    text = json.dumps({"model_list": [{"model_name": "chat", "litellm_params": model}]})
    configuration.write_text(text, "utf-8")
    command = [str(PROXY), "--config", str(configuration), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--telemetry", "False", "--num_workers", str(workers)]
    key = f"sk-{secrets.token_hex(24)}"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | _PRODUCTION
    environment["LITELLM_MASTER_KEY"] = key
    with (folder / f"litellm-{workers}.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        _wait(f"http://127.0.0.1:{port}/health/liveliness", key, bool)
        yield Relay(port, "/v1/chat/completions", key)
    finally:
        end_process(process)


def _wait(url: str, key: str, is_ready: object) -> None:
    deadline = time.monotonic() + _READY_WITHIN_S
    last = "it answers, and has nothing to offer"
    request = urllib.request.Request(url, headers={"authorization": f"Bearer {key}"})  # noqa: S310 - loopback
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(request, timeout=5) as reply:  # noqa: S310 - loopback
                if callable(is_ready) and is_ready(reply.read().decode()):
                    return
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            last = str(error)
        time.sleep(0.05)
    raise ChildFailed(f"{url} was not ready within {_READY_WITHIN_S:g} s: {last}")
