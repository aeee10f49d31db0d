"""How watchers learn of changes.

Durable events (`log`) and places among them (`cursor`), wake-ups in a process (`wake_ups`) and between replicas
(`exchange`), and those who follow (`followers`).
"""

from __future__ import annotations

from service_kit.events.cursor import Cursor, decode_cursor, encode_cursor
from service_kit.events.wake_ups import WakeUps

__all__ = ["Cursor", "WakeUps", "decode_cursor", "encode_cursor"]
