"""Sizes and durations as people write and read them, in settings, in files of workers and in sentences."""

from __future__ import annotations

import re
from datetime import timedelta

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"([0-9]+)|([0-9]+(?:\.[0-9]+)?)\s*(B|KB|MB|GB|TB|KiB|MiB|GiB|TiB)")
_SIZE_UNITS = {"B": 1}
_SIZE_UNITS |= {f"{letter}B": 1000**power for power, letter in enumerate("KMGT", 1)}
_SIZE_UNITS |= {f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", 1)}
MIB = 1 << 20
GIB = 1 << 30


def parse_duration(text: str) -> timedelta:
    """Return the duration of a text such as `7d`, `30s`, `50ms` or `1h30m`. Raises ValueError."""
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError("it takes a duration such as 7d, 30s, 50ms or 1h30m")
    try:
        return timedelta(seconds=sum(float(number) * _DURATION_UNITS[unit] for number, unit in parts))
    except OverflowError:
        raise ValueError("it is longer than any duration") from None


def parse_size(text: str) -> int:
    """Return the bytes of a text such as `64KiB`, `512 MB`, `1.5GiB` or, without a unit, `1024`. Raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError("it takes a size such as 64KiB, 512MB or 20GiB")
    bare, number, unit = match.groups()
    try:
        return int(bare) if bare else int(float(number) * _SIZE_UNITS[unit])
    except OverflowError:
        raise ValueError("it is larger than any size") from None


def sized(size_bytes: int) -> str:
    """Return a size as people read it: `6.9 GiB`, `300 MiB`."""
    if abs(size_bytes) >= GIB:
        return f"{size_bytes / GIB:.1f} GiB"
    return f"{size_bytes / MIB:.0f} MiB"
