"""How watchers learn of changes: durable events (`log`), positions among them (`cursor`), and wake-ups (`wake_ups`)."""

from __future__ import annotations

from service_kit.events.cursor import Cursor, decode_cursor, encode_cursor
from service_kit.events.wake_ups import WakeUps

__all__ = ["Cursor", "WakeUps", "decode_cursor", "encode_cursor"]
