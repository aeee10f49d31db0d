"""What is said beside the messages of a watch RPC, as metadata: how far it goes, and whether anything will come.

With `atelier-watch: once` a watch tells what there is until now, as it would in the beginning, and ends. So one stream
can serve many who watch the same: each catches up by a call of its own, and compares cursors from then on.

With `atelier-watch: news` who watches a job needs no snapshot of it while it goes on, as who has just submitted it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

WATCH = "atelier-watch"
ONCE = "once"
NEWS = "news"

STREAM_STATE = "atelier-stream"
"""Initial metadata of watch RPCs: `open`, or `ended` for a stream that was resumed after its last event."""


def ends_when_told(metadata: Iterable[tuple[str, Any]] | None) -> bool:
    """Tell whether a watch is to end as soon as it has told what there is until now."""
    return (WATCH, ONCE) in (metadata or ())


def wants_news_alone(metadata: Iterable[tuple[str, Any]] | None) -> bool:
    """Tell whether a watch of a job that goes on is to begin with what happens next."""
    return (WATCH, NEWS) in (metadata or ())
