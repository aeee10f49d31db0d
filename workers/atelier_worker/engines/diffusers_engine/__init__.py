"""The engine that runs pipelines of diffusers: pictures and videos."""

from __future__ import annotations

from atelier_worker.engines.diffusers_engine.engine import DiffusersEngine

__all__ = ["DiffusersEngine"]
