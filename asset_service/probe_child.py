"""The process that decodes what strangers sent: it has little memory, writes nothing, and may be killed at any time.

It takes one JSON line at a time:
`{"path": …}`, answered by `{"shape": {…}}` or `{"refused": "…", "reason": "…"}`;
`{"sizes": […]}`, as many files one after another in a file that both have open, answered by `{"answers": […]}`, one
such answer for each;
`{"describe": …}`, answered by `{"said": {…}}`, how the file says that it was made;
`{"render": …, "kinds": […], "video": …}`, answered by `{"made": [{"kind", "size", "shape"}…]}` followed by their bytes.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, fields
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

from asset_service.media import measure
from asset_service.refusals import damaged
from service_kit.descriptions.described import Described
from service_kit.descriptions.every_tool import describe_file
from service_kit.errors import InvalidArgument
from service_kit.renditions import make

MEMORY_BYTES = 2 << 30
IDLE_S = 60.0
_REST_S = 0.01
"""How long the memory of a file is kept for the next one: one that waits already comes at once."""
_BESIDE_EACH_OTHER_BYTES = 1 << 20
READY = b"ready\n"
_SAID = frozenset(field.name for field in fields(Described)) - {"made_at", "notes"}


def main() -> None:
    """Serve until nobody asks any more, or whoever asked is gone."""
    _limit(resource.RLIMIT_AS, MEMORY_BYTES)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    os.nice(int(sys.argv[1]))
    requests, replies = sys.stdin.buffer, sys.stdout.buffer
    replies.write(READY)
    replies.flush()
    while _asked(requests):
        line = requests.readline()
        if not line:
            return
        asked = json.loads(line)
        reply: dict[str, object]
        payload: list[bytes] = []
        if "render" in asked:
            reply = _render(asked, payload)
        elif "describe" in asked:
            reply = {"said": _said(Path(asked["describe"]))}
        elif "sizes" in asked:
            reply = {"answers": _answers(_shared(int(sys.argv[2]), asked["sizes"]))}
        else:
            reply = _answer(Path(asked["path"]))
        replies.write(b"".join((json.dumps(reply).encode(), b"\n", *payload)))
        replies.flush()


def _asked(requests: BinaryIO) -> bool:
    """Wait for a request. Tells whether one came; meanwhile the memory that the next one would have used goes back."""
    if select.select([requests], [], [], _REST_S)[0]:
        return True
    # Only the C library of GNU has it.
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    return bool(select.select([requests], [], [], IDLE_S - _REST_S)[0])


def _limit(kind: int, most: int) -> None:
    """Lower a limit of this process. A system that does not know it, or has a lower one, keeps its own."""
    _, hard = resource.getrlimit(kind)
    wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
    with suppress(ValueError, OSError):
        resource.setrlimit(kind, (wanted, wanted))


def _render(asked: dict[str, Any], payload: list[bytes]) -> dict[str, object]:
    """Make renditions; their bytes are added to the payload."""
    made = []
    try:
        for kind, data in make(Path(asked["render"]), asked["kinds"], video=asked["video"]):
            made.append({"kind": kind, "size": len(data), "shape": asdict(measure(BytesIO(data)))})
            payload.append(data)
    except InvalidArgument as error:
        payload.clear()
        return {"refused": error.message, "reason": error.reason.value}
    except Exception as error:  # noqa: BLE001 - decoders raise anything, and the file is to blame
        payload.clear()
        refused = damaged(f"The file cannot be made smaller ({type(error).__name__})")
        return {"refused": refused.message, "reason": refused.reason.value}
    return {"made": made}


def _said(file: Path) -> dict[str, object]:
    """Return how a file says that it was made; nothing when that cannot be read."""
    try:
        # A guidance of 0 says something.
        said = asdict(describe_file(file)).items()
        return {name: value for name, value in said if name in _SAID and (value or isinstance(value, float))}
    except Exception:  # noqa: BLE001 - parsers raise anything, and a file need not say anything
        return {}


def _shared(descriptor: int, sizes: list[int]) -> list[bytes]:
    places = [0, *accumulate(sizes)]
    return [os.pread(descriptor, size, place) for size, place in zip(sizes, places, strict=False)]


def _answers(files: list[bytes]) -> list[dict[str, object]]:
    """Measure files. The first of large ones is unpacked in a thread of its own, beside its renditions."""
    if len(files) == 1 or sum(map(len, files)) < _BESIDE_EACH_OTHER_BYTES:
        return [_answer(BytesIO(data)) for data in files]
    with ThreadPoolExecutor(max_workers=1) as beside:
        first = beside.submit(_answer, BytesIO(files[0]))
        rest = [_answer(BytesIO(data)) for data in files[1:]]
        return [first.result(), *rest]


def _answer(file: Path | BytesIO) -> dict[str, object]:
    try:
        return {"shape": asdict(measure(file))}
    except InvalidArgument as error:
        return {"refused": error.message, "reason": error.reason.value}


if __name__ == "__main__":
    main()
