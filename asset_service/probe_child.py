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
import mmap
import os
import resource
import select
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, fields
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, BinaryIO

from asset_service.media import measure
from asset_service.refusals import damaged
from asset_service.shape_domain import Shape
from service_kit.descriptions.described import Described
from service_kit.descriptions.every_tool import describe_file
from service_kit.errors import InvalidArgument
from service_kit.renditions import make

MEMORY_BYTES = 2 << 30
IDLE_S = 60.0
_REST_S = 1.0
"""How long the memory of files is kept for the next ones: to take it anew costs as much as to measure a small one."""
_BESIDE_OTHERS_BYTES = 1 << 19
"""From this size on the first file of a batch is unpacked beside the others; a thread costs more than a small one."""
READY = b"ready\n"
_SHAPE = tuple(field.name for field in fields(Shape))
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
            reply = {"answers": _answers(int(sys.argv[2]), asked["sizes"])}
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
            made.append({"kind": kind, "size": len(data), "shape": _told(measure(data))})
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


def _answers(descriptor: int, sizes: list[int]) -> list[dict[str, object]]:
    """Measure files where they lie. What is mapped ends where they end: older ones may lie behind them."""
    places = [0, *accumulate(sizes)]
    if not places[-1]:
        return [_answer(b"") for _ in sizes]
    with mmap.mmap(descriptor, places[-1], access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as data:
        ways = [partial(_answer_part, data, start, end) for start, end in pairwise(places)]
        if len(sizes) == 1 or sizes[0] < _BESIDE_OTHERS_BYTES:
            return [answer() for answer in ways]
        # An output comes before its renditions, and takes longer than all of them.
        with ThreadPoolExecutor(max_workers=1) as beside:
            first = beside.submit(ways[0])
            rest = [answer() for answer in ways[1:]]
            return [first.result(), *rest]


def _answer_part(data: memoryview, start: int, end: int) -> dict[str, object]:
    with data[start:end] as file:
        return _answer(file)


def _answer(file: Path | bytes | memoryview) -> dict[str, object]:
    try:
        return {"shape": _told(measure(file))}
    except InvalidArgument as error:
        return {"refused": error.message, "reason": error.reason.value}


def _told(shape: Shape) -> dict[str, object]:
    # asdict() would copy each value, which takes longer than the rest of the answer.
    return {name: getattr(shape, name) for name in _SHAPE}


if __name__ == "__main__":
    main()
