"""Moments as protobuf has them."""

from __future__ import annotations

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp


def moment(value: datetime | None) -> Timestamp | None:
    """Return a moment, None when there is none."""
    if value is None:
        return None
    timestamp = Timestamp()
    timestamp.FromDatetime(value)
    return timestamp
