"""Memory, seen from the engine's process: what its tasks ask of other engines, what others ask of it, what it holds."""

from __future__ import annotations

import queue
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

from atelier.engine.v1 import engine_host_pb2 as pb
from atelier_worker.engine import Engine
from service_kit.ids import new_id

# The worker answers sooner: it gives each other engine a deadline of its own. This is for a worker that hangs.
ASK_LIMIT_S = 120.0
# How soon a task that waits for room notices that its job was cancelled.
_CANCEL_CHECK_S = 0.1
# How often the device is looked at between tasks: others take from it and give back.
_LOOK_EVERY_S = 5.0


@dataclass(slots=True)
class _Question:
    answered: threading.Event = field(default_factory=threading.Event)
    freed_bytes: int = 0


class Rooms:
    """Asks for room, gives room, and tells what is loaded. Every method may be called from any thread."""

    def __init__(self, send: Callable[[pb.HostResponse], None], *, look_every_s: float = _LOOK_EVERY_S) -> None:
        """Speak through `send`, which is safe from any thread; look at the device every so often."""
        self._send = send
        self._look_every_s = look_every_s
        self._questions: dict[str, _Question] = {}
        self._wanted: queue.SimpleQueue[pb.GiveRoom] = queue.SimpleQueue()
        self._engine: Engine | None = None
        self._lock = threading.Lock()
        self._told = pb.Loaded()
        self._told_counted = pb.Counted()

    def serve(self, engine: Engine) -> None:
        """Give room from now on, in a thread of its own: it must not wait for tasks, nor the pipe for it."""
        self._engine = engine
        threading.Thread(target=self._give_all, name="rooms", daemon=True).start()
        self.tell_loaded()

    def ask(self, device: str, wanted_bytes: int, check_cancelled: Callable[[], None]) -> int:
        """Ask the other engines for room and wait; return the bytes freed, 0 when the worker does not answer.

        `check_cancelled` raises to end the waiting.
        """
        check_cancelled()
        request_id, question = new_id(), _Question()
        self._questions[request_id] = question
        try:
            need = pb.NeedRoom(request_id=request_id, device=device, wanted_bytes=wanted_bytes)
            self._send(pb.HostResponse(need_room=need))
            deadline = time.monotonic() + ASK_LIMIT_S
            while not question.answered.wait(_CANCEL_CHECK_S) and time.monotonic() < deadline:
                check_cancelled()
        finally:
            del self._questions[request_id]
        check_cancelled()
        return question.freed_bytes

    def answer(self, made: pb.RoomMade) -> None:
        """Take the worker's answer to a question; nobody may be waiting for it any more."""
        question = self._questions.get(made.request_id)
        if question is not None:
            question.freed_bytes = made.freed_bytes
            question.answered.set()

    def give(self, wanted: pb.GiveRoom) -> None:
        """Have the engine free what it can, later. Each is answered."""
        self._wanted.put(wanted)

    def tell_loaded(self) -> None:
        """Tell what the engine holds and what its device has left, if that has changed."""
        find = getattr(self._engine, "loaded", None)
        if find is None:
            return
        try:
            models = [
                pb.LoadedModel(name=str(one.name), device=str(one.device), size_bytes=int(one.size_bytes))
                for one in find()
            ]
            loaded = pb.Loaded(models=models, device=self._device())
        except Exception:  # noqa: BLE001 - foreign code; what it holds is not worth a task or the process
            traceback.print_exc()
            return
        with self._lock:
            if loaded != self._told:
                self._told = loaded
                self._send(pb.HostResponse(loaded=loaded))

    def tell_counted(self) -> None:
        """Tell what the engine counts itself, if that has changed."""
        find = getattr(self._engine, "counters", None)
        if find is None:
            return
        try:
            counted = pb.Counted(sums={str(name): float(amount) for name, amount in find().items()})
        except Exception:  # noqa: BLE001 - foreign code; what it counts is not worth a task or the process
            traceback.print_exc()
            return
        with self._lock:
            if counted != self._told_counted:
                self._told_counted = counted
                self._send(pb.HostResponse(counted=counted))

    def _device(self) -> pb.DeviceMemory | None:
        find = getattr(self._engine, "device_room", None)
        room = find() if find is not None else None
        if room is None:
            return None
        sizes = {"free_bytes": max(0, int(room.free_bytes)), "total_bytes": int(room.total_bytes)}
        return pb.DeviceMemory(device=str(room.device), **sizes)

    def _give_all(self) -> None:
        give = getattr(self._engine, "give_room", None)
        look_every_s = self._look_every_s if hasattr(self._engine, "device_room") else None
        while True:
            try:
                wanted = self._wanted.get(timeout=look_every_s)
            except queue.Empty:
                self.tell_loaded()
                continue
            given = pb.RoomGiven(request_id=wanted.request_id)
            if give is not None:
                try:
                    given.freed_bytes = max(0, int(give(wanted.device, wanted.wanted_bytes)))
                except Exception:  # noqa: BLE001 - foreign code; the other engine hears that nothing was freed
                    traceback.print_exc()
            self.tell_loaded()
            self._send(pb.HostResponse(room_given=given))
