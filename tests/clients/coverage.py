"""Which call of which client is proved by what: the rows of coverage.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).parent / "coverage.toml"


@dataclass(frozen=True)
class Row:
    """One call of one client. Without `test` it is a call in the client's own environment."""

    client: str
    call: str
    test: str = ""


def rows() -> list[Row]:
    """Return every row."""
    found: list[Row] = []
    for client, calls in tomllib.loads(TABLE.read_text("utf-8")).items():
        if isinstance(calls, list):
            found += [Row(client, call) for call in calls]
        else:
            found += [Row(client, call, test) for call, test in calls.items()]
    return found
