"""How long a step takes at least, so that people see the picture grow; a cancel does not wait for it."""

from __future__ import annotations

import time

from atelier_worker.engine import Context

_LONGEST_SLEEP = 0.02


def pause(seconds: float, context: Context) -> None:
    """Wait, but end at once when the job is cancelled."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        context.check_cancelled()
        time.sleep(min(left, _LONGEST_SLEEP))
    context.check_cancelled()
