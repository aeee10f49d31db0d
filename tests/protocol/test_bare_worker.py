"""The worker without the runtime is what it says: short, nothing of ours but the stubs, and a program of its own."""

from __future__ import annotations

import ast
import asyncio
import sys
from pathlib import Path

from atelier.router.v1 import job_pb2
from tests.protocol.harness import LIMIT_S, System

SCRIPT = Path(__file__).with_name("bare_worker.py")


def test_it_imports_stubs_and_no_runtime() -> None:
    imported = set()
    for node in ast.walk(ast.parse(SCRIPT.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
        elif isinstance(node, ast.Import):
            imported |= {name.name.partition(".")[0] for name in node.names}
    assert imported - sys.stdlib_module_names == {"grpc", "atelier"}


def test_it_stays_short() -> None:
    """The page says "some hundred lines": without imports, docstrings and empty lines."""
    tree = ast.parse(SCRIPT.read_text("utf-8"))
    left_out: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        ):
            left_out |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = SCRIPT.read_text("utf-8").splitlines()
    assert sum(bool(line.strip()) for number, line in enumerate(lines, 1) if number not in left_out) <= 107


async def test_it_runs_until_it_is_told_to_stop(system: System) -> None:
    router = system.routers["a"]
    key_file = system.folder / "keys" / "worker.key"
    process = await asyncio.create_subprocess_exec(sys.executable, str(SCRIPT), router.target, str(key_file))
    try:
        job = await router.ended((await router.submit()).job_id)
        process.terminate()
        async with asyncio.timeout(LIMIT_S):
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED
