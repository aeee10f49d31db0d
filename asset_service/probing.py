"""Measures files in a child process, so that no file can crash, stop or bloat the service."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

from asset_service.probe_child import READY
from asset_service.refusals import too_large, unsupported
from asset_service.shape_domain import Shape
from service_kit.errors import AtelierError, ErrorReason, InvalidArgument, Unavailable
from service_kit.file_copies import write_at
from service_kit.telemetry import get_logger

log = get_logger(__name__)
MAX_MADE_BYTES = 32 << 20
"""The most bytes that the renditions of one file may have together."""

_CHILD = "asset_service.probe_child"
_START_S = 20.0
_END_S = 1.0
_KILLED_S = 5.0
_TRIES = 2
# What holds one batch serves for the next, for fresh memory costs more than writing to it.
_KEPT_BYTES = 8 << 20
_KEPT_S = 1.0
# As much is written without a turn for anybody else, or one file.
_TURN_BYTES = 2 << 20
# Each of many threads would reserve address space of its own, which the child's limit counts.
_FRUGAL = {"MALLOC_ARENA_MAX": "2", "OPENBLAS_NUM_THREADS": "1"}
# What one picture took serves for the next, for fresh memory costs half as much as decoding. Resting gives it back.
_KEPT = {"MALLOC_MMAP_THRESHOLD_": str(16 << 20), "MALLOC_TRIM_THRESHOLD_": str(32 << 20)}


@dataclass(frozen=True, slots=True)
class Made:
    """A rendition: its kind, its bytes with their SHA-256, and what they are, as measured."""

    kind: str
    data: bytes
    sha256: str
    shape: Shape


class Probe:
    """One child, started when it is needed and started again when it is gone; it measures one file at a time."""

    def __init__(self, *, limit: timedelta = timedelta(seconds=25), child: str = _CHILD, niceness: int = 0) -> None:
        """Give each file `limit`; `child` is the module that the child runs, and it gives way to others if nice."""
        self._limit = limit
        self._niceness = niceness
        self._module = child
        self._turn = asyncio.Lock()
        self._child: asyncio.subprocess.Process | None = None
        self._shared = -1
        self._giving_back: asyncio.TimerHandle | None = None

    async def measure(self, path: Path) -> Shape:
        """Return what a file is.

        Raises:
            InvalidArgument: `unsupported_media`; also when it cannot be decoded in time, or kills its decoder.
            Unavailable: no child could be started.
        """
        return _shape(await self._reply({"path": str(path)}, ()))

    async def measure_bytes(self, files: Sequence[bytes]) -> list[Shape | AtelierError]:
        """Return what small files are, or why one is refused. All share the time of one.

        Raises:
            InvalidArgument: one of them cannot be decoded in time, or kills its decoder.
            Unavailable: no child could be started.
        """
        reply = await self._reply({"sizes": [len(data) for data in files]}, files)
        return [_shape_or_refusal(answer) for answer in reply["answers"]]

    async def describe(self, path: Path) -> Mapping[str, Any]:
        """Return how a file says that it was made, by the names of `Described`; nothing when it does not, or breaks.

        Raises:
            Unavailable: no child could be started.
        """
        try:
            reply = await self._reply({"describe": str(path)}, ())
        except InvalidArgument as error:
            log.info("description_unread", error=error.message)
            return {}
        return cast(dict[str, Any], reply["said"])

    async def render(self, path: Path, kinds: Sequence[str], *, content_type: str) -> list[Made]:
        """Return renditions of a file, in the order in which they were made.

        Raises:
            InvalidArgument: they cannot be made, or not in time, or doing so kills the child.
            Unavailable: no child could be started.
        """
        request = {"render": str(path), "kinds": list(kinds), "video": content_type.startswith("video/")}
        reply = await self._reply(request, ())
        if "made" not in reply:
            _shape(reply)
        payload, place = cast(bytes, reply["payload"]), 0
        made: list[tuple[str, bytes, Shape]] = []
        for one in reply["made"]:
            data = payload[place : place + one["size"]]
            place += one["size"]
            made.append((one["kind"], data, Shape(**one["shape"])))
        digests = await asyncio.to_thread(lambda: [hashlib.sha256(data).hexdigest() for _, data, _ in made])
        return [Made(kind, data, sha256, shape) for (kind, data, shape), sha256 in zip(made, digests, strict=True)]

    async def _reply(self, request: dict[str, Any], files: Sequence[bytes]) -> dict[str, Any]:
        async with self._turn:
            for _ in range(_TRIES):
                try:
                    async with asyncio.timeout(self._limit.total_seconds()):
                        reply = await self._ask(request, files)
                except TimeoutError:
                    await self._end()
                    raise too_large(f"The file could not be decoded within {self._limit.total_seconds():g} s") from None
                except BaseException:
                    # A reply that nobody waited for must not be taken for that of the next file.
                    await asyncio.shield(self._end())
                    raise
                if reply is not None:
                    return reply
                # It may have ended for lack of work in this very moment, so one more try.
                log.warning("probe_died")
                await self._end()
            raise unsupported("The file could not be decoded")

    async def close(self) -> None:
        """End the child."""
        async with self._turn:
            await self._end()

    async def _ask(self, request: dict[str, Any], files: Sequence[bytes]) -> dict[str, Any] | None:
        """Return the child's reply; None when it died."""
        if self._child is None or self._child.returncode is not None:
            await self._end()
            self._child = await self._start()
        if self._child.stdin is None or self._child.stdout is None:
            raise RuntimeError("the child has no pipes")
        try:
            if files:
                await self._fill(files)
            self._child.stdin.write(json.dumps(request).encode() + b"\n")
            await self._child.stdin.drain()
            line = await self._child.stdout.readline()
        except (BrokenPipeError, ConnectionResetError):
            return None
        finally:
            if files:
                self._give_back_soon()
        if not line.endswith(b"\n"):
            return None
        reply = cast(dict[str, Any], json.loads(line))
        size = sum(one["size"] for one in reply.get("made", ()))
        if size > MAX_MADE_BYTES:
            raise too_large(f"The renditions have {size} bytes; at most {MAX_MADE_BYTES} are kept")
        try:
            reply["payload"] = await self._child.stdout.readexactly(size)
        except asyncio.IncompleteReadError:
            return None
        return reply

    async def _fill(self, files: Sequence[bytes]) -> None:
        """Write files one after another, and let others have their turn now and then."""
        self._stop_giving_back()
        place = written = 0
        for data in files:
            if written and written + len(data) > _TURN_BYTES:
                await asyncio.sleep(0)
                written = 0
            write_at(self._shared, data, place)
            place += len(data)
            written += len(data)

    def _give_back_soon(self) -> None:
        """Keep what holds a batch for the next one, within bounds: a large one is cut at once, an idle one later."""
        if os.fstat(self._shared).st_size > _KEPT_BYTES:
            os.ftruncate(self._shared, _KEPT_BYTES)
        self._giving_back = asyncio.get_running_loop().call_later(_KEPT_S, os.ftruncate, self._shared, 0)

    def _stop_giving_back(self) -> None:
        # A file must not be cut while it is measured, and its number may be that of another one once it is closed.
        if self._giving_back is not None:
            self._giving_back.cancel()
            self._giving_back = None

    async def _start(self) -> asyncio.subprocess.Process:
        # Nothing of ours goes into a process that reads what strangers sent.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ATELIER_")}
        environment |= _FRUGAL | _KEPT
        self._shared = _nameless_file()
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            self._module,
            str(self._niceness),
            str(self._shared),
            pass_fds=(self._shared,),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment,
        )
        try:
            async with asyncio.timeout(_START_S):
                ready = await child.stdout.readline() if child.stdout else b""
        except BaseException:
            await asyncio.shield(_kill(child))
            raise
        if ready != READY:
            await _kill(child)
            raise Unavailable("The process that measures files could not be started; repeat.")
        return child

    async def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            await _kill(child)
        self._stop_giving_back()
        if self._shared >= 0:
            os.close(self._shared)
            self._shared = -1


def _nameless_file() -> int:
    """Return a file in memory, or on the disk where a system has none: a pipe takes many turns for a large picture."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("probe")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


async def _kill(child: asyncio.subprocess.Process) -> None:
    if child.stdin is not None:
        child.stdin.close()
    if child.returncode is None:
        try:
            child.kill()
        except ProcessLookupError:
            log.debug("probe_gone_already")
    with contextlib.suppress(TimeoutError):
        # What it started may hold its pipe: before Python 3.12.4 asyncio waits for that as well, and for ever.
        async with asyncio.timeout(_KILLED_S):
            await child.wait()
    if child.stdout is not None:
        # wait() does not wait for the pipe of a child that had ended before: only its end closes it.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                await child.stdout.read()


def _shape_or_refusal(reply: dict[str, Any]) -> Shape | AtelierError:
    try:
        return _shape(reply)
    except InvalidArgument as error:
        return error


def _shape(reply: dict[str, Any]) -> Shape:
    refused = reply.get("refused")
    if refused is not None:
        raise InvalidArgument(str(refused), ErrorReason(reply["reason"]))
    return Shape(**reply["shape"])
