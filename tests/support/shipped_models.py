"""The routing table of a new installation, as all migrations together leave it."""

from __future__ import annotations

from typing import Any


def _row(name: str, position: int, **document: Any) -> dict[str, Any]:
    return {"name": name, "position": position, "document": {"name": name, "position": position, **document}}


SHIPPED: tuple[dict[str, Any], ...] = (
    _row("enhancer", 10, stage="enhance", worker_type="chat", deadline_seconds=120),
    _row(
        "sdxl",
        20,
        stage="generate",
        worker_type="sdxl",
        aliases=["sdxl-base-1.0"],
        formats=["image"],
        base_size=1024,
        default_steps=12,
        deadline_seconds=900,
    ),
    _row("sdxl*", 30, stage="generate", worker_type="sdxl", formats=["image"], base_size=1024, default_steps=12),
    _row(
        "wan",
        40,
        stage="generate",
        worker_type="wan",
        aliases=["wan-2.1"],
        formats=["video", "image"],
        base_size=640,
        default_steps=12,
        default_frame_rate=16,
        max_quantity=4,
        deadline_seconds=1800,
    ),
    _row(
        "*",
        1000,
        stage="generate",
        worker_type="wan",
        formats=["video", "image"],
        base_size=640,
        default_steps=12,
        default_frame_rate=16,
        max_quantity=4,
        deadline_seconds=1800,
    ),
)

CHAT: tuple[dict[str, Any], ...] = (_row("chat", 15, stage="chat", worker_type="chat", deadline_seconds=600),)
"""Rows of the chat stage, in their own table."""
