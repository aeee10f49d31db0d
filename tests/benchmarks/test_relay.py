"""The token relay: what its engine and its clients do with what an upstream streams, and the table of its figures."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import pytest

from atelier_worker.engine import Chat, Message
from benchmarks import relay
from benchmarks.comparison import PeerMissing
from benchmarks.load import streams
from benchmarks.load.relay_engine import UPSTREAM, RelayEngine
from benchmarks.load.upstream import TOKENS, Upstream
from benchmarks.load_report import markdown
from tests.atelier_worker.engines.listener import ENHANCE, Listener


async def test_a_client_reads_every_token_of_the_upstream() -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        taken = await streams.run(port, "/v1/chat/completions", "none", streams=4, total=10)
    assert len(taken["first_ms"]) == 10
    assert min(taken["first_ms"]) > 0


async def test_the_engine_writes_what_the_upstream_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0)
    async with server:
        monkeypatch.setenv(UPSTREAM, str(server.sockets[0].getsockname()[1]))
        listener, engine = Listener(tmp_path), RelayEngine({})
        task: Any = dataclasses.replace(ENHANCE, stage="chat", chat=Chat((Message("user", "hello"),)))
        with contextlib.closing(engine):
            for _ in range(2):
                await asyncio.to_thread(engine.run, task, listener)
    assert len(listener.text) == 2 * TOKENS
    assert listener.finishes == 2 * [("stop", 1, TOKENS)]


def taken(ours: float, theirs: float) -> dict[str, list[float]]:
    names = [relay.ATELIER, *relay.PROXIES, relay.DIRECT]
    speeds = {f"{name}: tokens/s": [theirs] for name in names} | {f"{relay.ATELIER}: tokens/s": [ours]}
    return speeds | {f"{name}: first ms": [1.0 if name == relay.DIRECT else 11.0] for name in names}


def test_the_better_proxy_counts_and_both_targets_are_judged() -> None:
    samples = taken(2000.0, 100.0)
    last = list(relay.PROXIES)[-1]
    samples[f"{last}: tokens/s"] = [400.0]
    page = markdown(relay.table(samples, 1))
    assert "5.00 x" in page
    assert page.count("MISSED") == 2
    samples[f"{relay.ATELIER}: tokens/s"], samples[f"{relay.ATELIER}: first ms"] = [4000.0], [5.0]
    assert markdown(relay.table(samples, 1)).count("reached") == 2


def test_a_proxy_that_did_not_run_is_named() -> None:
    samples = taken(2000.0, 100.0)
    missing = next(iter(relay.PROXIES))
    del samples[f"{missing}: first ms"]
    with pytest.raises(PeerMissing, match=missing):
        relay.table(samples, 1)
