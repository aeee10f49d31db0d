"""Other people's clients, unmodified, each in an environment of its own, against a whole Atelier."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from tests.clients.coverage import Row, rows
from tests.clients.environments import Client, clients
from tests.gateway.receivers import make_certificates
from tests.support.system import System, running_system
from tests.support.unreliable import Fault, unreliable

pytestmark = pytest.mark.asyncio(loop_scope="session")
CLIENTS = {client.name: client for client in clients()}
OURS = [row for row in rows() if not row.test]
LIMIT_S = 150
ONCE = "a heron that is asked for once"
"""As runner.py says."""


@dataclass
class Outcome:
    """What became of the calls of a client: its error, or None, by the name of the call."""

    errors: Mapping[str, str | None]
    text: str
    faults: int
    once: int
    """How many jobs there are of the prompt that was sent through failures."""


@dataclass
class Stack:
    """A running Atelier, and how clients are told of it."""

    system: System
    environ: dict[str, str]
    outcomes: dict[str, Outcome]


class FirstOfEach(dict[int, Fault]):
    """Answers 500 to every other POST: the first of each two, whose second is the retry."""

    def get(self, key: int, default: object = None) -> Fault | None:  # type: ignore[override]
        return Fault.ERROR if key % 2 else None


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stack(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    folder = tmp_path_factory.mktemp("clients")
    files = make_certificates(folder, "localhost")
    async with AsyncExitStack() as opened:
        system = await opened.enter_async_context(
            running_system(folder / "data", asset__max_upload_bytes=str(120 << 20))
        )
        tls = await opened.enter_async_context(unreliable(system.url, {}, tls=files.server()))
        environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "PYTHONPATH": str(Path(__file__).parent),
            "PYTHONUNBUFFERED": "1",
            "ATELIER_URL": system.url,
            "ATELIER_TLS_URL": tls.url,
            "ATELIER_KEY": system.key(),
            "SSL_CERT_FILE": str(files.authority),
            "NODE_EXTRA_CA_CERTS": str(files.authority),
        }
        yield Stack(system, environ, {})


@pytest.mark.parametrize("row", OURS, ids=lambda row: f"{row.client}-{row.call}")
async def test_a_call(stack: Stack, row: Row) -> None:
    outcome = await outcome_of(stack, CLIENTS[row.client])
    assert row.call in outcome.errors, outcome.text[-4000:]
    error = outcome.errors[row.call]
    assert error is None, error


@pytest.mark.parametrize("name", sorted(CLIENTS))
async def test_a_client_does_what_the_table_says_and_no_retry_made_a_second_job(stack: Stack, name: str) -> None:
    outcome = await outcome_of(stack, CLIENTS[name])
    assert set(outcome.errors) == {row.call for row in OURS if row.client == name}
    calls = sum("500" in call for call in outcome.errors)
    assert (outcome.faults, outcome.once) == (calls, calls)


async def outcome_of(stack: Stack, client: Client) -> Outcome:
    """Run the calls of a client, once."""
    if client.name not in stack.outcomes:
        before = await jobs_asked_once(stack.system)
        async with unreliable(stack.system.url, FirstOfEach()) as faulty:
            text = await run(stack, client, faulty.url)
        lines = [json.loads(line) for line in text.splitlines() if line.startswith('{"call"')]
        stack.outcomes[client.name] = Outcome(
            {line["call"]: line["error"] for line in lines},
            text,
            sum(seen.fault is not None for seen in faulty.requests),
            await jobs_asked_once(stack.system) - before,
        )
    return stack.outcomes[client.name]


async def run(stack: Stack, client: Client, faulty_url: str) -> str:
    client.bring_calls()
    process = await asyncio.create_subprocess_exec(
        *client.command,
        env={**stack.environ, "ATELIER_FAULTY_URL": faulty_url},
        cwd=client.built,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return output.decode("utf-8", "replace")


async def jobs_asked_once(system: System) -> int:
    async with httpx.AsyncClient(headers={"x-api-key": system.key()}, trust_env=False) as http:
        jobs = (await http.get(f"{system.url}/v1/jobs?page_size=200")).json()["jobs"]
    return sum(ONCE in json.dumps(job) for job in jobs)
