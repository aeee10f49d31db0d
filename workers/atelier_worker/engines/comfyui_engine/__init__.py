"""The engine that hands work to a ComfyUI: workflows with named inputs, run there, brought back here."""

from __future__ import annotations

from atelier_worker.engines.comfyui_engine.engine import ComfyEngine

__all__ = ["ComfyEngine"]
