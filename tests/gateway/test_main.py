"""The gateway as a process: it starts without the services, ends when asked, and says why it cannot start."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from pathlib import Path

import httpx


async def _run(folder: Path, **settings: str) -> asyncio.subprocess.Process:
    environment = {"PATH": os.environ["PATH"], "ATELIER_DATA_DIR": str(folder), **settings}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway", env=environment, cwd=folder, stderr=asyncio.subprocess.PIPE
    )


async def test_it_serves_until_it_is_asked_to_end(tmp_path: Path) -> None:
    nowhere = "127.0.0.1:1"
    process = await _run(
        tmp_path,
        ATELIER_GATEWAY_LISTEN="127.0.0.1:0",
        ATELIER_GATEWAY_ROUTER_TARGET=nowhere,
        ATELIER_GATEWAY_ASSET_TARGET=nowhere,
        ATELIER_GATEWAY_LIBRARY_TARGET=nowhere,
    )
    try:
        assert process.stderr is not None
        line = (await asyncio.wait_for(process.stderr.readline(), 20)).decode()
        found = re.search(r"target=(127\.0\.0\.1:\d+)", line)
        assert found is not None, line
        async with httpx.AsyncClient(base_url=f"http://{found[1]}", trust_env=False) as http:
            response = await http.get("/v1/health")
        assert (response.status_code, response.json()["status"]) == (503, "not_serving")
        process.send_signal(signal.SIGTERM)
        rest = (await asyncio.wait_for(process.stderr.read(), 20)).decode()
        assert await asyncio.wait_for(process.wait(), 20) == 0
        assert "stopped" in rest and "Traceback" not in rest
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_what_is_wrong_with_the_settings_is_one_sentence(tmp_path: Path) -> None:
    for settings, words in (
        ({"ATELIER_GATEWAY_LISTEN": "0.0.0.0:0"}, "without TLS"),
        ({"ATELIER_GATEWAY_LISTN": "x"}, "Did you mean ATELIER_GATEWAY_LISTEN"),
        ({"ATELIER_LOG_LEVEL": "loud"}, "core.log_level"),
        ({"ATELIER_PUBLIC_URL": "ftp://art.example"}, "core.public_url is 'ftp://art.example'"),
    ):
        process = await _run(tmp_path, **settings)
        _, said = await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode == 2
        assert words in said.decode() and said.decode().count("\n") == 1
