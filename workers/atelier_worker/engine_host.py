"""The engine's own process: `python -m atelier_worker.engine_host --engine NAME`.

It reads requests from the pipe that was its standard input, writes responses to the one that was its standard output,
runs tasks in threads, and ends at once when the worker is gone. What the engine prints goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import BinaryIO

from atelier.engine.v1 import engine_host_pb2 as pb
from atelier_worker import frames, promises
from atelier_worker.engine import Cancelled, Engine, EngineError
from atelier_worker.engine_loader import EngineNotUsable, load_engine
from atelier_worker.engine_options import OptionsError
from atelier_worker.engine_wire import task_from_proto
from atelier_worker.host_context import HostContext, encodable
from atelier_worker.host_rooms import Rooms
from atelier_worker.host_text import Flusher

EXIT_NOT_USABLE = 2


class Host:
    """Runs the tasks that come through one pipe and tells about them through another."""

    def __init__(self, source: BinaryIO, sink: int) -> None:
        """Read frames from `source`, write frames to the file descriptor `sink`."""
        self._source = source
        self._sink = sink
        self._write_lock = threading.Lock()
        self._waiting: queue.SimpleQueue[pb.RunTask] = queue.SimpleQueue()
        self._contexts: dict[str, HostContext] = {}
        self._configured = threading.Event()
        self._options: dict[str, object] = {}
        self._rooms = Rooms(self.send)
        self._flusher = Flusher()

    def serve(self, engine_name: str) -> int:
        """Make the engine and run tasks; when the worker closes the pipe the process ends. Returns only on failure."""
        reader = threading.Thread(target=self._read, name="requests", daemon=True)
        reader.start()
        self._configured.wait()
        try:
            engine = load_engine(engine_name, self._options)
        except EngineNotUsable as error:
            if not isinstance(error.__cause__, OptionsError | ModuleNotFoundError | None):
                # Those are said whole by the sentence; of any other fault the place is worth something.
                traceback.print_exception(error.__cause__)
            self.send(pb.HostResponse(refused=pb.Refused(message=encodable(error))))
            return EXIT_NOT_USABLE
        concurrency = max(1, int(engine.concurrency))
        for number in range(concurrency):
            threading.Thread(target=self._work, args=(engine,), name=f"task-{number}", daemon=True).start()
        ready = pb.Ready(name=str(engine.name), concurrency=concurrency)
        ready.worker_types.extend(getattr(engine, "worker_types", ()))
        ready.stages.extend(getattr(engine, "stages", ()))
        ready.models.extend(getattr(engine, "models", ()))
        self.send(pb.HostResponse(ready=ready))
        self._rooms.serve(engine)
        reader.join()
        return 0

    def send(self, *messages: pb.HostResponse) -> None:
        """Write frames, one behind the other. Safe from any thread."""
        view = memoryview(b"".join(map(frames.encode, messages)))
        try:
            with self._write_lock:
                while view:
                    view = view[os.write(self._sink, view) :]
        except BrokenPipeError:
            os._exit(0)

    def _read(self) -> None:
        """Take requests. When the worker is gone nobody wants the work: end at once, whatever the engine is doing."""
        try:
            while (request := frames.read(self._source, pb.HostRequest())) is not None:
                self._take(request)
        except frames.FrameError:
            traceback.print_exc()
        os._exit(0)

    def _take(self, request: pb.HostRequest) -> None:
        match request.WhichOneof("message"):
            case "configure":
                self._options = json.loads(request.configure.options_json)
                self._configured.set()
            case "run":
                self._contexts[request.run.task_id] = HostContext(request.run, self.send, self._rooms, self._flusher)
                self._waiting.put(request.run)
            case "cancel":
                context = self._contexts.get(request.cancel.task_id)
                if context is not None:
                    context.cancel()
            case "room_made":
                self._rooms.answer(request.room_made)
            case "give_room":
                self._rooms.give(request.give_room)

    def _work(self, engine: Engine) -> None:
        while True:
            request = self._waiting.get()
            context = self._contexts[request.task_id]
            ended = self._run(engine, request, context)
            self._rooms.tell_loaded()
            self._rooms.tell_counted()
            # A thread that the engine left behind must not speak for a task that has ended.
            context.cancel()
            del self._contexts[request.task_id]
            self.send(*context.last_words(), pb.HostResponse(ended=ended))

    def _run(self, engine: Engine, request: pb.RunTask, context: HostContext) -> pb.TaskEnded:
        ended = pb.TaskEnded(task_id=request.task_id)
        try:
            context.check_cancelled()
            engine.run(task_from_proto(request), context)
        except Cancelled:
            ended.cancelled.SetInParent()
        except EngineError as error:
            ended.failure.message = encodable(error)
            ended.failure.retryable = error.retryable
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever foreign code raises fails its task, not the process
            traceback.print_exc()
            ended.failure.message = f"The engine failed with {type(error).__name__}; the worker's log says where."
            ended.failure.retryable = True
        else:
            ended.finished.SetInParent()
        return ended


def _claim_pipes() -> tuple[BinaryIO, int]:
    """Keep the two pipes for frames alone: what the engine or a library prints goes to standard error."""
    source = os.fdopen(os.dup(0), "rb")
    sink = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return source, sink


def main(arguments: list[str] | None = None) -> int:
    """Serve one engine until the worker closes the pipe."""
    parser = argparse.ArgumentParser(prog="python -m atelier_worker.engine_host", description=__doc__)
    parser.add_argument("--engine", required=True, help="entry point of the group atelier.engines, or module:Class")
    parser.add_argument("--promises", type=Path, metavar="FOLDER", help="where promises of memory are written down")
    given = parser.parse_args(arguments)
    if given.promises is not None:
        promises.share(given.promises)
    source, sink = _claim_pipes()
    # A service manager sends them to every process of the worker, which decides what becomes of the tasks.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    return Host(source, sink).serve(str(given.engine))


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    # Threads of an engine that cannot be used must not keep the process.
    os._exit(code)
