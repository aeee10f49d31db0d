"""Findings of sweeps as messages, the same for every service that has blobs."""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.timestamp_pb2 import Timestamp

from atelier.type.v1 import care_pb2
from service_kit.sweeping import Finding


def findings_to_proto(findings: Iterable[Finding]) -> list[care_pb2.SweepFinding]:
    """Return the messages of what a sweep found."""
    return [_to_proto(finding) for finding in findings]


def _to_proto(finding: Finding) -> care_pb2.SweepFinding:
    message = care_pb2.SweepFinding(
        kind=care_pb2.SweepKind.Value(f"SWEEP_KIND_{finding.kind.name}"),
        bucket=finding.bucket,
        key=finding.key,
        generation=finding.generation,
        size_bytes=finding.size_bytes,
        subject=finding.subject,
        explanation=finding.explanation,
        action=care_pb2.SweepAction.Value(f"SWEEP_ACTION_{finding.action.name}"),
    )
    if finding.created_at is not None:
        stamp = Timestamp()
        stamp.FromDatetime(finding.created_at)
        message.created_at.CopyFrom(stamp)
    return message
