"""Leases as a router would send them."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any

from atelier.router.v1 import chat_pb2, job_pb2
from atelier.type.v1 import generation_pb2
from atelier.worker.v1 import worker_service_pb2 as pb

JOB = "0197a000-0000-7000-8000-000000000001"
REFERENCE = "0197a000-0000-7000-8000-00000000000a"


def ref(job_id: str = JOB, fence: int = 1, stage: int = 0) -> pb.LeaseRef:
    return pb.LeaseRef(job_id=job_id, stage=stage, fence=fence)


def lease(script: str, *, job_id: str = JOB, fence: int = 1, quantity: int = 1, enhance: bool = False) -> pb.Lease:
    """Return a lease whose prompt is a script for the scripted engine."""
    settings = generation_pb2.GenerationSettings(
        worker_type="sdxl", model="sdxl", seed=7, width=64, height=48, steps=2, quantity=quantity
    )
    settings.format = generation_pb2.FORMAT_UNSPECIFIED if enhance else generation_pb2.FORMAT_IMAGE
    kind = job_pb2.STAGE_KIND_ENHANCE if enhance else job_pb2.STAGE_KIND_GENERATE
    made = pb.Lease(ref=ref(job_id, fence), attempt=1, token="lease-token")
    made.spec.CopyFrom(pb.StageSpec(kind=kind, prompt=script, settings=settings))
    made.ttl.FromTimedelta(timedelta(seconds=30))
    return made


def with_reference(content: bytes, script: str = "references") -> pb.Lease:
    """Return a lease with one picture to start from, whose bytes these are."""
    made = lease(script)
    leased = made.spec.references.add()
    leased.reference.CopyFrom(
        generation_pb2.ReferenceImage(asset_id=REFERENCE, kind=generation_pb2.REFERENCE_KIND_INIT, strength=0.25)
    )
    leased.media.content_type = "image/png"
    leased.media.size_bytes = len(content)
    leased.media.sha256 = hashlib.sha256(content).hexdigest()
    return made


def chat_lease(script: str, **chat: Any) -> pb.Lease:
    """Return the lease of a conversation whose last message is a script for the scripted engine."""
    made = lease("", enhance=True)
    made.spec.kind = job_pb2.STAGE_KIND_CHAT
    made.spec.settings.quantity = 0
    made.spec.chat.CopyFrom(chat_pb2.Chat(**chat))
    made.spec.chat.messages.add(role=chat_pb2.CHAT_ROLE_SYSTEM, content="Obey.")
    made.spec.chat.messages.add(role=chat_pb2.CHAT_ROLE_USER, content=script)
    return made
