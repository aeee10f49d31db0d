"""The sketch engine: draws what a prompt's words name, with no weights and no accelerator, and says so in every file."""

from __future__ import annotations

from .engine import SketchEngine

__all__ = ["SketchEngine"]
