"""Failures of memory."""

from __future__ import annotations

from atelier_worker.engine import EngineError


class NotEnoughMemory(EngineError):
    """The device cannot hold what a task needs: now (retryable), or ever."""
