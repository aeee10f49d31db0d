"""Weights that are not on this machine yet: fetched where whoever waits for them sees it, and may leave."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

from atelier_worker.engine import Context
from atelier_worker.task_watch import LOADING

T = TypeVar("T")
# How often whoever waits is told so, and may be cancelled; it also shows the worker that the task does not hang.
_LOOK_EVERY_S = 1.0


class Fetches(Generic[T]):
    """What is being fetched, by the name of its model: one at a time, and once for all tasks that wait for it."""

    def __init__(self) -> None:
        """Fetch nothing yet."""
        self._lock = threading.Lock()
        self._under_way: dict[str, Future[T]] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fetch")

    def wait(self, name: str, fetch: Callable[[], T], context: Context) -> T:
        """Return what `fetch` returns, which is seen as progress; keep it, for it is not remembered here.

        Whoever is cancelled does not end the fetching: the next task finds what there is by then.

        Raises:
            Cancelled: the job was cancelled meanwhile.
            Exception: whatever `fetch` raises; the next task tries again.
        """
        with self._lock:
            fetching = self._under_way.get(name) or self._thread.submit(fetch)
            self._under_way[name] = fetching
        while not fetching.done():
            context.progress(0, 1, phase=f"{LOADING} {name}: fetching it")
            wait([fetching], timeout=_LOOK_EVERY_S)
        with self._lock:
            if self._under_way.get(name) is fetching:
                del self._under_way[name]
        return fetching.result()
