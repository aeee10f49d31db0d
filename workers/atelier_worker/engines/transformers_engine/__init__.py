"""Conversations and richer prompts from a language model on this machine, many at a time."""

from .engine import TransformersEngine

__all__ = ["TransformersEngine"]
