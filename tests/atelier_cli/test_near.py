"""The services of `atelier up` call each other within their process."""

from __future__ import annotations

from pathlib import Path

import pytest

from service_kit.in_process.rpc import Rpc
from service_kit.in_process.server import InProcessServer
from tests.support.system import running_system


async def test_what_a_client_asks_takes_no_socket_between_services(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: set[str] = set()
    begin = InProcessServer.begin

    def noting(server: InProcessServer, rpc: Rpc) -> None:
        called.add(rpc.method)
        begin(server, rpc)

    monkeypatch.setattr(InProcessServer, "begin", noting)
    async with running_system(tmp_path, worker=False) as system, system.client() as client:
        await client.models()
        await client.assets()
        await client.items()
    services = {method.split("/")[1].rpartition(".")[2] for method in called}
    assert {"RouterService", "AssetService", "LibraryService", "IdentityService"} <= services
