"""A process of workers from a worker.toml, in front of a system under test."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from atelier_cli.commands.up import worker_environ
from tests.support.system import STOP_SECONDS, System


@asynccontextmanager
async def config_worker(
    system: System, folder: Path, engines: str, *worker_types: str, status: str = ""
) -> AsyncIterator[Path]:
    """Run the `[[engine]]` tables of a text until the context ends, and give the file; waits for the worker types."""
    file = folder / "worker.toml"
    head = f'[worker]\nname = "test"\nconnect = "{system.settings.worker.connect}"\n'
    head += f'status = "{status}"\n' if status else ""
    file.write_text(f'{head}key_file = "{system.settings.keys_dir / "worker.key"}"\n\n{engines}', encoding="utf-8")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "atelier_worker", "--config", str(file)),
        env=worker_environ(system.settings),
        start_new_session=True,
    )
    try:
        for worker_type in worker_types:
            await system.worker_connected(worker_type)
        yield file
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
