"""The process that decodes what strangers sent: it has little memory, writes nothing, and may be killed at any time.

It takes one JSON line at a time: `{"path": …}`, answered by `{"shape": {…}}` or `{"refused": "…", "reason": "…"}`; or
`{"sizes": […]}` followed by the bytes of as many files, answered by `{"answers": […]}` with one such answer for each.
"""

from __future__ import annotations

import json
import resource
import select
import sys
from contextlib import suppress
from dataclasses import asdict
from io import BytesIO
from pathlib import Path

from asset_service.media import measure
from service_kit.errors import InvalidArgument

MEMORY_BYTES = 2 << 30
IDLE_S = 60.0
READY = b"ready\n"


def main() -> None:
    """Serve until nobody asks any more, or whoever asked is gone."""
    _limit(resource.RLIMIT_AS, MEMORY_BYTES)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    replies.write(READY)
    replies.flush()
    while select.select([requests], [], [], IDLE_S)[0]:
        line = requests.readline()
        if not line:
            return
        asked = json.loads(line)
        reply: dict[str, object]
        if "sizes" in asked:
            # All are read before the first is decoded: who writes them must not wait for a decoder.
            files = [requests.read(size) for size in asked["sizes"]]
            reply = {"answers": [_answer(BytesIO(data)) for data in files]}
        else:
            reply = _answer(Path(asked["path"]))
        replies.write(json.dumps(reply).encode() + b"\n")
        replies.flush()


def _limit(kind: int, most: int) -> None:
    """Lower a limit of this process. A system that does not know it, or has a lower one, keeps its own."""
    _, hard = resource.getrlimit(kind)
    wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
    with suppress(ValueError, OSError):
        resource.setrlimit(kind, (wanted, wanted))


def _answer(file: Path | BytesIO) -> dict[str, object]:
    try:
        return {"shape": asdict(measure(file))}
    except InvalidArgument as error:
        return {"refused": error.message, "reason": error.reason.value}


if __name__ == "__main__":
    main()
