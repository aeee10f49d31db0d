"""Processes that lose their memory: services in this process whose power can be cut between any two durable steps.

A point is a place where a process may die: before and after every commit, before and after every call to another
service, before and after every change of a blob, and wherever the code itself has a crash point. A process whose fuse
burns down at a point never takes another step: its tasks end, and its database and blobs refuse it.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import hashlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from service_kit.blobs import BlobInfo, NewBlob, check_digest
from service_kit.database import Database
from service_kit.errors import AlreadyExists, NotFound
from service_kit.finishing import outcomes

_T = TypeVar("_T")
_current: contextvars.ContextVar[Process | None] = contextvars.ContextVar("model_process", default=None)
WAIT_S = 20.0


class PowerCut(BaseException):
    """The process is no more. Not an Exception: no code of a service may handle it."""


class Gone(Exception):
    """What a caller sees of a process that died under its call, or was not there."""


@dataclass(eq=False)
class Process:
    """One process: what runs in it, and where it dies. `fuse` is the number of points that it still reaches."""

    name: str
    reached: Counter[str] = field(default_factory=Counter)
    fuse: int | None = None
    alive: bool = True
    died_at: str = ""
    tasks: set[asyncio.Task[Any]] = field(default_factory=set)
    cut: asyncio.Event = field(default_factory=asyncio.Event)

    def reach(self, point: str) -> None:
        """Say that the process is at a point. Raises PowerCut when it dies there, or is dead."""
        if not self.alive:
            raise PowerCut(point)
        self.reached[point] += 1
        if self.fuse is None:
            return
        self.fuse -= 1
        if self.fuse <= 0:
            self.kill(point)
            raise PowerCut(point)

    def kill(self, point: str = "") -> None:
        """Cut the power."""
        self.alive = False
        self.died_at = point
        self.cut.set()

    def start(self, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """Run something in the process; it goes down with it."""
        token = _current.set(self)
        try:
            return asyncio.get_running_loop().create_task(work)
        finally:
            _current.reset(token)

    async def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Return what a call of the process returns. Raises Gone when the process dies before it has."""
        if not self.alive:
            work.close()
            raise Gone(self.name)
        task, cut = self.start(work), asyncio.ensure_future(self.cut.wait())
        try:
            done, _ = await asyncio.wait({task, cut}, return_when=asyncio.FIRST_COMPLETED, timeout=WAIT_S)
        except asyncio.CancelledError:
            task.cancel()
            raise
        finally:
            cut.cancel()
        if not done:
            task.print_stack()
            raise TimeoutError(f"a call of {self.name} hangs")
        if self.cut.is_set():
            await self.bury()
            raise Gone(self.name)
        return task.result()

    async def bury(self) -> None:
        """End what still runs in a dead process."""
        while self.tasks:
            tasks = list(self.tasks)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=WAIT_S)

    def own(self, task: asyncio.Task[Any]) -> None:
        """Take a task in that the process has started."""
        self.tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if not self.alive and not task.cancelled():
            # Nobody asks any more.
            task.exception()


def reach(point: str) -> None:
    """Stand in for `service_kit.crash.reach`: say where the process is that runs at this moment."""
    process = _current.get()
    if process is not None:
        process.reach(point)


def task_factory(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
    """Make a task; it belongs to the process whose code made it, also in a context of its own."""
    process = _current.get()
    context: contextvars.Context | None = options.get("context")
    if context is not None:
        context.run(_current.set, process)
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, **options)
    if process is not None:
        process.own(task)
    return task


@contextlib.contextmanager
def outside() -> Iterator[None]:
    """Make tasks that go on whatever happens to the process: those of the database's driver, which is shared."""
    token = _current.set(None)
    try:
        yield
    finally:
        _current.reset(token)


class ProcessDatabase:
    """The database of a service, as one of its processes sees it."""

    def __init__(self, shared: Database, process: Process) -> None:
        self._shared = shared
        self._process = process

    def __getattr__(self, name: str) -> Any:
        return getattr(self._shared, name)

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """Give a transaction that may write; the process may die right before or right after its commit."""
        if not self._process.alive:
            raise PowerCut("write")
        manager = self._shared.write()
        with outside():
            connection = await manager.__aenter__()
        try:
            yield connection
            self._process.reach("before_commit")
        except BaseException as error:
            with outside():
                await manager.__aexit__(type(error), error, error.__traceback__)
            raise
        with outside():
            await manager.__aexit__(None, None, None)
        self._process.reach("after_commit")

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Give a transaction that reads."""
        if not self._process.alive:
            raise PowerCut("read")
        manager = self._shared.read()
        with outside():
            connection = await manager.__aenter__()
        try:
            yield connection
        except BaseException as error:
            with outside():
                await manager.__aexit__(type(error), error, error.__traceback__)
            raise
        with outside():
            await manager.__aexit__(None, None, None)


class Blobs:
    """A blob store in memory, which outlives every process."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], tuple[BlobInfo, bytes]] = {}
        self._generation = 0

    def seen_by(self, process: Process) -> ProcessBlobs:
        """Return the store as a process uses it."""
        return ProcessBlobs(self, process)

    def add(self, bucket: str, key: str, data: bytes, content_type: str) -> BlobInfo:
        """Write a blob whose key is free. Raises AlreadyExists."""
        if (bucket, key) in self.files:
            raise AlreadyExists(f"The key {key} is taken.")
        self._generation += 1
        digest = hashlib.sha256(data).hexdigest()
        info = BlobInfo(bucket, key, str(self._generation), len(data), digest, content_type, datetime.now(UTC))
        self.files[bucket, key] = (info, data)
        return info

    def taken(self) -> set[str]:
        """Return the keys of all blobs."""
        return {key for _, key in self.files}


class ProcessBlobs:
    """The blob store of a process, which may die before and after each change."""

    def __init__(self, shared: Blobs, process: Process) -> None:
        self._shared = shared
        self._process = process

    async def put(
        self, bucket: str, key: str, chunks: AsyncIterable[bytes], *, content_type: str, sha256: str | None = None
    ) -> BlobInfo:
        data = b"".join([chunk async for chunk in chunks])
        check_digest(hashlib.sha256(data).hexdigest(), sha256)
        self._process.reach("before_blob")
        info = self._shared.add(bucket, key, data, content_type)
        self._process.reach("after_blob")
        return info

    async def put_bytes(
        self, bucket: str, key: str, data: bytes, *, content_type: str, sha256: str | None = None
    ) -> BlobInfo:
        self._process.reach("before_blob")
        info = self._shared.add(bucket, key, data, content_type)
        self._process.reach("after_blob")
        return info

    async def put_many(
        self, bucket: str, blobs: Sequence[NewBlob], *, chosen: asyncio.Future[Sequence[int]] | None = None
    ) -> Sequence[BlobInfo | Exception]:
        if chosen is not None:
            blobs = [blobs[place] for place in await asyncio.shield(chosen)]
        written: Sequence[BlobInfo | Exception] = []
        for blob in blobs:
            # One after the other: a crash may leave some of them.
            one = self.put_bytes(bucket, blob.key, blob.data, content_type=blob.content_type)
            written = [*written, *await outcomes([one])]
        return written

    async def put_file(
        self,
        bucket: str,
        key: str,
        path: Path,
        *,
        content_type: str,
        sha256: str,
        checked: asyncio.Future[Any] | None = None,
    ) -> BlobInfo:
        if checked is not None:
            await asyncio.shield(checked)
        data = await asyncio.to_thread(path.read_bytes)
        check_digest(hashlib.sha256(data).hexdigest(), sha256)
        return await self.put_bytes(bucket, key, data, content_type=content_type)

    async def clear_drafts(self, bucket: str, *, older_than: timedelta) -> int:
        return 0

    async def stat(self, bucket: str, key: str) -> BlobInfo | None:
        known = self._shared.files.get((bucket, key))
        return known[0] if known else None

    async def open_range(
        self, bucket: str, key: str, *, offset: int = 0, length: int | None = None, generation: str | None = None
    ) -> AsyncGenerator[bytes]:
        known = self._shared.files.get((bucket, key))
        if known is None or generation not in (None, known[0].generation):
            raise NotFound(f"There is no blob {key}.")
        yield known[1][offset:] if length is None else known[1][offset : offset + length]

    async def read_whole(
        self, wanted: Sequence[tuple[str, str, str]], *, most_bytes: int, most_bytes_together: int
    ) -> Sequence[bytes | None]:
        found: Sequence[bytes | None] = ()
        for bucket, key, generation in wanted:
            known = self._shared.files.get((bucket, key))
            data = known[1] if known is not None and known[0].generation == generation else None
            fits = data is not None and len(data) <= min(most_bytes, most_bytes_together)
            most_bytes_together -= len(data) if data is not None and fits else 0
            found = (*found, data if fits else None)
        return found

    async def copy(
        self, source: tuple[str, str], target: tuple[str, str], *, generation: str | None = None
    ) -> BlobInfo:
        self._process.reach("before_copy")
        known = self._shared.files.get(source)
        if known is None or generation not in (None, known[0].generation):
            raise NotFound(f"There is no blob {source[1]}.")
        info = self._shared.add(*target, known[1], known[0].content_type)
        self._process.reach("after_copy")
        return info

    async def delete(self, bucket: str, key: str, generation: str) -> bool:
        self._process.reach("before_deletion")
        known = self._shared.files.get((bucket, key))
        is_this = known is not None and known[0].generation == generation
        if is_this:
            del self._shared.files[bucket, key]
        self._process.reach("after_deletion")
        return is_this

    async def list(self, bucket: str, prefix: str = "", *, after: str = "") -> AsyncGenerator[BlobInfo]:
        for (where, key), (info, _) in sorted(self._shared.files.items()):
            if where == bucket and key.startswith(prefix) and key > after:
                yield info

    def look(self, bucket: str, prefix: str = "", *, after: str = "") -> AsyncGenerator[BlobInfo]:
        return self.list(bucket, prefix, after=after)


class Methods:
    """The RPCs of a service, called without a network. `registrations` are those that its server was made with."""

    def __init__(self, registrations: Sequence[tuple[Callable[[Any, Any], None], object]]) -> None:
        self._handlers: dict[str, Any] = {}
        for add, servicer in registrations:
            add(servicer, self)

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        """Ignore what the generated code adds for old servers."""

    def add_registered_method_handlers(self, service_name: str, handlers: dict[str, Any]) -> None:
        """Take the methods of one service."""
        self._handlers |= {f"/{service_name}/{name}": handler for name, handler in handlers.items()}

    def handler(self, path: str) -> Any:
        """Return gRPC's description of a method."""
        return self._handlers[path]

    async def unary(self, path: str, request: Any) -> Any:
        """Call a method that takes a message, or an iterator of messages, and answers with one."""
        handler = self.handler(path)
        if handler.request_streaming:
            return await handler.stream_unary(request, Context())
        return await handler.unary_unary(request, Context())


class Context:
    """What a servicer is given beside the request: nothing, here."""

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        """Return no metadata."""
        return ()

    async def send_initial_metadata(self, metadata: object) -> None:
        """Send nothing."""
