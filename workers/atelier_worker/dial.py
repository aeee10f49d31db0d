"""Channels of a worker, without the kit's interceptors: those bring server and cryptography into memory."""

from __future__ import annotations

from typing import Any

import grpc

MAX_MESSAGE_BYTES = 4 << 20
# An output of 8 MiB that goes whole, and what is around it.
_MAX_SENT_BYTES = 9 << 20
_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_SENT_BYTES),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # A service that was restarted is found again within a second, not after gRPC's usual growing pauses.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # Not a pause, whatever its name: so long an attempt to connect may take, over a slow network or on a busy machine.
    ("grpc.min_reconnect_backoff_ms", 5_000),
]


def dial(target: str, *, name: str = "") -> grpc.aio.Channel:
    """Return a channel to host:port. Nothing is connected yet; close it at the end.

    With a `name` the other side is called that, as if the name and not one of its addresses had been dialled.
    """
    options = [*_OPTIONS, ("grpc.default_authority", name)] if name not in ("", target) else _OPTIONS
    return grpc.aio.insecure_channel(target, options=options)
