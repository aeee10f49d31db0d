"""An engine that hands work to somebody else's service with an OpenAI-compatible API: chat, enhancement, pictures."""

from .engine import OpenAIEngine

__all__ = ["OpenAIEngine"]
