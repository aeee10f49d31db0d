"""A process of the benchmark that is told what to do: one JSON object a line in, one a line out.

Imports nothing but the standard library, so that peers use it from an environment of their own.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_ENDS_WITHIN_S = 15.0


class ChildFailed(Exception):
    """A process of the benchmark did not do what it was told; the message says which, and what it wrote."""


def end_process(process: subprocess.Popen[Any]) -> None:
    """Ask a process to end, and kill it when it does not in time."""
    process.terminate()
    try:
        process.wait(_ENDS_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdin is not None:
        process.stdin.close()


class Child:
    """The parent's side: starts the process, asks it, ends it."""

    def __init__(
        self, name: str, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start `command`. What it writes to standard error goes to `log`."""
        self.name = name
        self._log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
            )

    @property
    def process_id(self) -> int:
        """The process."""
        return self._process.pid

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Have something done and return the answer.

        Raises:
            ChildFailed: the process is gone, or answers with a fault.
        """
        self.tell(do, **arguments)
        return self.answer()

    def tell(self, do: str, **arguments: Any) -> None:
        """Have something done; `answer` returns what comes of it. Raises ChildFailed when the process is gone."""
        try:
            _stream(self._process.stdin).write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            _stream(self._process.stdin).flush()
        except BrokenPipeError:
            raise self._gone() from None

    def answer(self) -> dict[str, Any]:
        """Return the answer to what was told. Raises ChildFailed."""
        line = _stream(self._process.stdout).readline()
        if not line:
            raise self._gone()
        answer: dict[str, Any] = json.loads(line)
        if "fault" in answer:
            raise ChildFailed(f"{self.name} failed: {answer['fault']}")
        return answer

    def end(self) -> None:
        """Close the process's input, which ends it; kill it when it does not listen."""
        for stream in (self._process.stdin, self._process.stdout):
            try:
                _stream(stream).close()
            except BrokenPipeError:
                continue
        try:
            self._process.wait(_ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _gone(self) -> ChildFailed:
        self._process.wait()
        last = self._log.read_text("utf-8", errors="replace").strip().splitlines()[-5:]
        return ChildFailed(
            f"{self.name} ended with {self._process.returncode}: {' / '.join(last) or 'it wrote nothing'}"
        )


def _stream(stream: Any) -> Any:
    if stream is None:
        raise RuntimeError("the process has no pipes")
    return stream


async def serve(handlers: Mapping[str, Callable[..., Any]]) -> None:
    """The child's side: answer each line with what the handler of that name returns, until the input ends."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        told = json.loads(line)
        try:
            answer = handlers[told.pop("do")](**told)
            if inspect.isawaitable(answer):
                answer = await answer
        except Exception as error:  # noqa: BLE001 - it is told to the parent, which ends the run
            answer = {"fault": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(answer or {}) + "\n")
        sys.stdout.flush()


def cpu_seconds() -> float:
    """Return the processor time that this process has used, in seconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def submit_burst(submit: Callable[[int], Any], jobs: int, submitters: int) -> dict[str, Any]:
    """Submit `jobs` jobs with `submitters` tasks, each its next one as soon as it may.

    `submit` takes the moment of submission in nanoseconds of the monotonic clock, which all processes share.
    """
    numbers = iter(range(jobs))

    async def one() -> None:
        for _ in numbers:
            await submit(time.monotonic_ns())

    cpu, started_ns = cpu_seconds(), time.monotonic_ns()
    async with asyncio.TaskGroup() as group:
        for _ in range(submitters):
            group.create_task(one())
    return {"started_ns": started_ns, "ended_ns": time.monotonic_ns(), "cpu_s": cpu_seconds() - cpu}


async def submit_paced(submit: Callable[[int], Any], jobs: int, per_second: float) -> dict[str, Any]:
    """Submit `jobs` jobs at a steady rate, whether or not the earlier ones are through."""
    cpu, started_ns = cpu_seconds(), time.monotonic_ns()
    async with asyncio.TaskGroup() as group:
        for number in range(jobs):
            due_ns = started_ns + int(number / per_second * 1e9)
            await asyncio.sleep(max(0, due_ns - time.monotonic_ns()) / 1e9)
            group.create_task(submit(time.monotonic_ns()))
    return {"started_ns": started_ns, "ended_ns": time.monotonic_ns(), "cpu_s": cpu_seconds() - cpu}
