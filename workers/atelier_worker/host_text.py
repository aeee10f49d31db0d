"""Text on its way out of the engine's process: a piece goes at once, and what follows within a moment goes together.

An upstream that writes hundreds of tokens in one breath would otherwise wake the worker for each of them.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

TOGETHER_S = 0.005
"""How long a piece waits at most for others, if the one before it has just gone."""


class Flusher:
    """Flushes texts when they have waited long enough, in a thread that all tasks of a process share."""

    def __init__(self) -> None:
        self._due: queue.SimpleQueue[tuple[float, Text]] = queue.SimpleQueue()
        self._begin = threading.Lock()
        self._thread: threading.Thread | None = None

    def flush_soon(self, text: Text) -> None:
        """Flush a text after `TOGETHER_S`."""
        with self._begin:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="text", daemon=True)
                self._thread.start()
        self._due.put((time.monotonic() + TOGETHER_S, text))

    def _work(self) -> None:
        while True:
            due, text = self._due.get()
            time.sleep(max(0.0, due - time.monotonic()))
            text.flush()


class Text:
    """What one task writes. Every method may be called from any thread."""

    def __init__(
        self, send: Callable[[str], None], flusher: Flusher, now: Callable[[], float] = time.monotonic
    ) -> None:
        """Send pieces, in order, with `send`."""
        self._send = send
        self._flusher = flusher
        self._now = now
        self._lock = threading.Lock()
        self._waiting: list[str] = []
        self._sent_at = -TOGETHER_S
        self._is_due = False

    def add(self, piece: str) -> None:
        """Take the next piece."""
        with self._lock:
            self._waiting.append(piece)
            now = self._now()
            if now - self._sent_at >= TOGETHER_S:
                self._send_all(now)
            elif not self._is_due:
                self._is_due = True
                self._flusher.flush_soon(self)

    def flush(self) -> None:
        """Send what waits: something else is said next, or it has waited long enough."""
        with self._lock:
            self._is_due = False
            if self._waiting:
                self._send_all(self._now())

    def take(self) -> str:
        """Return what waits instead of sending it: whoever asks says it together with something else."""
        with self._lock:
            pieces, self._waiting = "".join(self._waiting), []
            return pieces

    def _send_all(self, now: float) -> None:
        pieces, self._waiting = "".join(self._waiting), []
        self._sent_at = now
        self._send(pieces)
