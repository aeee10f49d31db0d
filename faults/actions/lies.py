"""What a hostile worker reports."""

from __future__ import annotations

from faults.field import Field
from faults.hostile import HostileWorker
from faults.schedule import FaultPlan
from service_kit.keyring import Keyrings


async def lie(field: Field, fault: FaultPlan) -> str:
    """Have a worker join that lies once, in the way of the fault's kind, and leave."""
    key = Keyrings(field.cluster.data / "keys").read_key_file("worker.key")
    liar = HostileWorker(field.cluster.links["hostile"].target, key, field.evidence, field.database_url)
    return await liar.do(fault.kind.value)
