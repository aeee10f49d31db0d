"""The worker that `atelier up` keeps running: a child process, started again when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
# A worker that ran this long was healthy: the next pause is short again.
HEALTHY_SECONDS = 60.0


class WorkerProcess:
    """Owns one child process and the task that starts it again."""

    def __init__(self, environ: Mapping[str, str], say: Callable[[str], None]) -> None:
        """Prepare; `environ` is the child's whole environment, `say` tells the person what happened."""
        self._environ, self._say = dict(environ), say
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the child, and keep it running."""
        self._task = asyncio.create_task(self._keep_running(), name="worker-process")

    @property
    def process_id(self) -> int | None:
        """The child's process id; None while there is none."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def _keep_running(self) -> None:
        pause = FIRST_PAUSE
        while True:
            began = time.monotonic()
            code = await self._run_once()
            if time.monotonic() - began > HEALTHY_SECONDS:
                pause = FIRST_PAUSE
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
            self._say(f"The worker {how}; it is started again in {pause:g} s.")
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _run_once(self) -> int:
        # Its own session: Ctrl-C reaches only the host, which ends the worker in order.
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "atelier_cli.attached",
            "atelier_worker",
            env=self._environ,
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        return await self._process.wait()

    async def stop(self, grace_seconds: float) -> None:
        """End the child: first asked, then killed with all that it started."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace_seconds):
                await process.wait()
        except TimeoutError:
            self.kill()
            await process.wait()

    def kill(self) -> None:
        """Kill the child and its process group at once."""
        process_id = self.process_id
        if process_id is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process_id, signal.SIGKILL)
