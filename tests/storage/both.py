"""What the tests of storages share."""

from __future__ import annotations

import dataclasses
from typing import Any


def snapshot(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass, not those of what it holds."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
