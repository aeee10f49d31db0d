"""A stepped clock: one process has libfaketime preloaded, whose offset is read from a file that is rewritten."""

from __future__ import annotations

import asyncio
from pathlib import Path

from faults.cluster import Cluster, Part
from faults.faketime import library
from faults.field import Field
from faults.schedule import FaultPlan

# Seconds: about a lease, about an identity token, more than either, and what a wrong time zone makes.
_STEPS = (3, 60, 600, 7200)


def victim(cluster: Cluster, fault: FaultPlan) -> Part:
    """Return the part whose clock the fault steps."""
    return cluster.parts[fault.target % len(cluster.parts)]


def prepare(cluster: Cluster, fault: FaultPlan) -> None:
    """Have the victim's clock read from a file; before it is started. Raises NoFakeTime."""
    file = _file(cluster, victim(cluster, fault))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("+0\n", "utf-8")
    victim(cluster, fault).environment = victim(cluster, fault).environment | {
        "LD_PRELOAD": str(library()),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_NO_CACHE": "1",
        # A step moves the wall clock alone.
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


async def step(field: Field, fault: FaultPlan) -> str:
    """Step the clock forwards, or backwards every second time, then the other way, then to the right time."""
    part = victim(field.cluster, fault)
    file = _file(field.cluster, part)
    seconds = _STEPS[fault.target // 2 % len(_STEPS)] * (-1 if fault.target % 2 else 1)
    for offset in (seconds, -seconds, 0):
        draft = file.with_suffix(".draft")
        draft.write_text(f"{offset:+d}\n", "utf-8")
        draft.replace(file)
        if offset:
            await asyncio.sleep(fault.seconds)
    return f"{part.name} by {seconds:+d} s and back"


def _file(cluster: Cluster, part: Part) -> Path:
    return cluster.folder / "clocks" / part.name
