"""The names of pools, and how stages are kept from workers that do not know them. Pure.

A stage that workers of an earlier release would misunderstand waits in a pool of its own beside that of its worker
type. A router of a release that has no such pool looks only into the other one, and a worker that has not said that it
knows such stages is never asked.
"""

from __future__ import annotations

from enum import StrEnum


class PoolKind(StrEnum):
    """Which pool of a worker type; the value is what its name ends with."""

    PLAIN = ""
    CHAT = "/chat"
    STEERED = "/steered"


def pool_name(worker_type: str, kind: PoolKind) -> str:
    """Return the name of a pool."""
    return worker_type + kind.value


def parse_pool(pool: str) -> tuple[str, PoolKind]:
    """Return the worker type of a pool, and which of its pools it is."""
    for kind in (PoolKind.CHAT, PoolKind.STEERED):
        if pool.endswith(kind.value):
            return pool.removesuffix(kind.value), kind
    return pool, PoolKind.PLAIN
