"""What rewrote a prompt: kept with the job, and with everything that is made of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EnhancedBy:
    """The engine, its model, and the template that it was told by; each is empty where the worker did not say it."""

    engine: str = ""
    model: str = ""
    template: str = ""
    template_version: str = ""
