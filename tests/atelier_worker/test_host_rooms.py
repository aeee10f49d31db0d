"""What an engine's process tells of its memory while no task runs."""

from __future__ import annotations

import queue

from atelier.engine.v1 import engine_host_pb2 as pb
from atelier_worker.engine import Context, DeviceRoom, LoadedModel, Task
from atelier_worker.host_rooms import Rooms


class LookedAt:
    """An engine whose device has free what a test says next; it waits when nothing is left to say."""

    name = "looked at"
    concurrency = 1

    def __init__(self) -> None:
        self.free: queue.SimpleQueue[int | None] = queue.SimpleQueue()

    def run(self, task: Task, context: Context) -> None:
        """Do nothing."""

    def loaded(self) -> list[LoadedModel]:
        return [LoadedModel("base", "cuda:0", 7)]

    def device_room(self) -> DeviceRoom | None:
        free = self.free.get()
        return DeviceRoom("cuda:0", free, 10) if free is not None else None


def test_an_idle_engine_tells_what_its_device_has_free_when_that_changes() -> None:
    engine, told = LookedAt(), queue.SimpleQueue[pb.HostResponse]()
    for free in (None, 3, 3, 2):
        engine.free.put(free)
    Rooms(told.put, look_every_s=0.001).serve(engine)
    messages = [told.get(timeout=10).loaded for _ in range(3)]
    assert [[model.name for model in one.models] for one in messages] == [["base"]] * 3
    assert [one.HasField("device") for one in messages] == [False, True, True]
    assert [(one.device.free_bytes, one.device.total_bytes) for one in messages[1:]] == [(3, 10), (2, 10)]
