"""Moments as protobuf has them."""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment(value: datetime | None) -> Timestamp | None:
    """Return a moment, None when there is none."""
    if value is None:
        return None
    # As Timestamp.FromDatetime does in six times the time: a job has many moments.
    since = value - _EPOCH
    return Timestamp(seconds=since.days * 86_400 + since.seconds, nanos=since.microseconds * 1000)
