"""One child process of an engine: its pipes, what it printed last, and how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from pathlib import Path

from atelier.engine.v1 import engine_host_pb2 as pb
from atelier_worker import frames
from service_kit.telemetry import get_logger

_STOP_LIMIT_S = 2.0
_PIPE_BUFFER_BYTES = 1 << 20
_CHUNK_BYTES = 1 << 14
_TAIL_BYTES = 8 << 10
_TAIL_LINES = 12
# A child of the engine may hold its standard error open for ever.
_LAST_LINES_LIMIT_S = 0.5
_LOOKS = 5

log = get_logger(__name__)


class EngineProcess:
    """A process that was started and not yet reaped."""

    def __init__(self, engine: str, process: Process) -> None:
        """Take over a process with three pipes; `start` makes one."""
        self._engine = engine
        self._process = process
        self._why_killed = ""
        self._kill_timer: asyncio.TimerHandle | None = None
        self._tail = bytearray()
        self._frames = None if process.stdout is None else frames.Frames(process.stdout, pb.HostResponse)
        self._unwritten: list[bytes] = []
        self._printing = asyncio.create_task(self._relay(), name="engine output")

    @classmethod
    async def start(cls, engine: str, environ: Mapping[str, str], promises: Path | None = None) -> EngineProcess:
        """Start the process of an engine, which shares the promises of memory in a folder."""
        shared = () if promises is None else ("--promises", str(promises))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "atelier_worker.engine_host", "--engine", engine, *shared,
            stdin=PIPE, stdout=PIPE, stderr=PIPE, limit=_PIPE_BUFFER_BYTES, env=environ, process_group=0,
        )  # fmt: skip
        return cls(engine, process)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def write(self, request: pb.HostRequest) -> None:
        """Send a request; one to a process that has died is lost, and its tasks fail anyway.

        What is said in one turn of the event loop goes together: the process wakes once for several leases.
        """
        if not self._unwritten:
            asyncio.get_running_loop().call_soon(self._write_all)
        self._unwritten.append(frames.encode(request))

    async def read(self) -> pb.HostResponse | None:
        """Return what it says next; None when it has closed its pipe.

        Raises:
            FrameError: it speaks garbage.
        """
        if self._frames is None:
            raise frames.FrameError("the engine's process has no pipe")
        return await self._frames.next()

    def ask_to_end(self) -> None:
        """Close the pipe, at which the process ends by itself, and kill it if its engine does not let it."""
        self._write_all()
        if self._process.stdin is not None:
            self._process.stdin.close()
        loop = asyncio.get_running_loop()
        self._kill_timer = loop.call_later(_STOP_LIMIT_S, self.kill, "it did not end")

    def kill(self, why: str) -> None:
        """End it at once; `why` goes into the description of its end."""
        # Not process.kill(): it reaps a process that has just ended, and asyncio then never learns its exit code.
        if self._process.returncode is None:
            self._why_killed = self._why_killed or why
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)

    async def reap(self) -> str:
        """End what is left of the process and return how it ended, for the operator."""
        had_ended = await self._has_ended(_LAST_LINES_LIMIT_S)
        if not had_ended:
            self.kill("it closed its pipe and went on")
            # What it started may hold its pipes: before Python 3.12.4 asyncio waits for these as well, and for ever.
            for _ in range(_LOOKS):
                if await self._has_ended(_STOP_LIMIT_S):
                    break
        end_left_behind(self._process.pid)
        if self._kill_timer is not None:
            self._kill_timer.cancel()
        await asyncio.wait((self._printing,), timeout=_LAST_LINES_LIMIT_S)
        self._printing.cancel()
        await asyncio.gather(self._printing, return_exceptions=True)
        return describe_end(self._process.returncode, self._why_killed)

    def last_lines(self) -> list[str]:
        """Return what it printed last on standard error."""
        text = self._tail.decode("utf-8", "replace").replace("\r", "\n")
        return [line.rstrip() for line in text.split("\n") if line.strip()][-_TAIL_LINES:]

    def _write_all(self) -> None:
        """Write what was said. Requests are small and the process always reads, so that nothing piles up."""
        content = b"".join(self._unwritten)
        self._unwritten.clear()
        stdin = self._process.stdin
        if content and stdin is not None and not stdin.is_closing():
            stdin.write(content)

    async def _has_ended(self, limit_s: float) -> bool:
        """Tell whether it ends by itself, having closed its pipe: its exit code then says how."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._process.wait()
        return self._process.returncode is not None

    async def _relay(self) -> None:
        """Pass standard error on to the worker's own, and remember the end of it."""
        stream = self._process.stderr
        while stream is not None and (chunk := await stream.read(_CHUNK_BYTES)):
            self._tail += chunk
            del self._tail[:-_TAIL_BYTES]
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(chunk.decode("utf-8", "replace"))
                sys.stderr.flush()


def end_left_behind(group: int) -> None:
    """End what a process that was reaped has started and left in its group: it may hold memory of a device, and pipes.

    As long as one of them lives, no process gets the number of their group. So if there is one of that number, none
    of them did, and the group is somebody else's.
    """
    try:
        os.kill(group, 0)
    except ProcessLookupError:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    except PermissionError:
        # Somebody else's, and of another user.
        return


def describe_end(code: int | None, why_killed: str) -> str:
    """Return in words how a process ended, from its exit code (negative: the number of a signal)."""
    if why_killed:
        return f"it was killed: {why_killed}"
    if code == -signal.SIGKILL:
        return "it was killed by the system or by somebody (SIGKILL): out of memory?"
    if code is not None and code < 0:
        try:
            return f"it was ended by {signal.Signals(-code).name}"
        except ValueError:
            return f"it was ended by signal {-code}"
    return f"it exited with code {code}"
