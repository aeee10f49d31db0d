"""Names of leases, as values that can be keys; the wire has messages, which cannot."""

from __future__ import annotations

from typing import NamedTuple

from atelier.worker.v1 import worker_service_pb2 as pb


class Ref(NamedTuple):
    """One lease: a stage of a job under one fence."""

    job_id: str
    stage: int
    fence: int

    @classmethod
    def of(cls, message: pb.LeaseRef) -> Ref:
        """Return the value of a message."""
        return cls(message.job_id, message.stage, message.fence)

    def to_proto(self) -> pb.LeaseRef:
        """Return the message."""
        return pb.LeaseRef(job_id=self.job_id, stage=self.stage, fence=self.fence)
