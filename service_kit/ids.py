"""How things are named: UUIDv7 text for everything that is made, a derived id for the outputs of a job."""

from __future__ import annotations

import os
import threading
import time
import uuid
from datetime import UTC, datetime, timedelta

from service_kit.errors import ErrorReason, InvalidArgument

_VERSION = 0x7
_LAST_MILLISECOND = 253_370_764_800_000
_RANDOM_BITS_A = 12
_RANDOM_BITS_B = 62


class _Sequence:
    """Gives out (millisecond, counter) pairs that only ever grow within a process (RFC 9562 section 6.2 method 1)."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._millisecond = 0
        self._counter = 0

    def following(self) -> tuple[int, int]:
        with self._lock:
            now = time.time_ns() // 1_000_000
            if now > self._millisecond:
                self._millisecond = now
                # The top bit is left clear, so that 2048 ids at least fit into each millisecond.
                self._counter = int.from_bytes(os.urandom(2), "big") >> 5
            else:
                self._counter += 1
                if self._counter >> _RANDOM_BITS_A:
                    self._millisecond += 1
                    self._counter = 0
            return self._millisecond, self._counter


_sequence = _Sequence()


def new_id() -> str:
    """Return a new UUIDv7 as lower-case text (RFC 9562). Ids of one process sort in the order of their making."""
    millisecond, counter = _sequence.following()
    random_part = int.from_bytes(os.urandom(8), "big") >> (64 - _RANDOM_BITS_B)
    value = (millisecond & ((1 << 48) - 1)) << 80
    value |= _VERSION << 76
    value |= counter << 64
    value |= 0b10 << 62
    value |= random_part
    return str(uuid.UUID(int=value))


def asset_id(job_id: str, asset_index: int) -> str:
    """Return the id of the output of a job at an index, so that everyone knows it without asking."""
    return str(uuid.uuid5(uuid.UUID(job_id), str(asset_index)))


def parse_id(text: str, field: str) -> str:
    """Return the id unchanged.

    Raises:
        InvalidArgument: the text is not a UUID in lower case with hyphens; names the field.
    """
    try:
        good = str(uuid.UUID(text)) == text
    except ValueError:
        good = False
    if not good:
        raise InvalidArgument.field(
            field, f"must be an id such as {new_id()}, got {text[:64]!r}", ErrorReason.INVALID_VALUE
        )
    return text


def made_at(text: str, field: str) -> datetime:
    """Return when an id of ours was made, to the millisecond, by the clock of who made it.

    Raises:
        InvalidArgument: the text is not such an id; names the field.
    """
    value = uuid.UUID(parse_id(text, field)).int
    # Beyond the year 9999 there is no moment.
    if (value >> 76) & 0xF != _VERSION or value >> 80 >= _LAST_MILLISECOND:
        raise InvalidArgument.field(field, f"must be an id such as {new_id()}, got {text}", ErrorReason.INVALID_VALUE)
    return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=value >> 80)
