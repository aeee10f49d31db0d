"""What happens to TCP connections on the links between processes."""

from __future__ import annotations

import asyncio

from faults.field import Field
from faults.proxy import Link
from faults.schedule import FaultPlan

# A stall that is longer than a lease lives, and one that ends before: both happen.
_LONG_STALL_S = 2.5


async def stall(field: Field, fault: FaultPlan) -> str:
    """Let nothing through a link for a while; then everything arrives late, or (every second time) the link is cut."""
    link = _link(field, fault)
    seconds = fault.seconds + (_LONG_STALL_S if fault.target % 3 == 0 else 0)
    link.stall()
    try:
        await asyncio.sleep(seconds)
        if fault.target % 2:
            link.cut()
    finally:
        link.resume()
    return f"{link.name} for {seconds:.2f} s"


async def cut(field: Field, fault: FaultPlan) -> str:
    """Reset every connection of a link, and again after a moment, when they have come back."""
    link = _link(field, fault)
    broken = link.cut()
    await asyncio.sleep(fault.seconds)
    broken += link.cut()
    return f"{link.name}, {broken} connections"


def _link(field: Field, fault: FaultPlan) -> Link:
    # The liar's own link is left out: a fault there would hit nothing of ours.
    names = sorted(name for name in field.cluster.links if name != "hostile")
    return field.cluster.links[names[fault.target % len(names)]]
