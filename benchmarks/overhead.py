"""What the whole system adds to a picture that is ready: from the request to the finished job, less saving it alone.

An engine delivers a picture of 1024 by 1024 that it has made long before. Beside it the same picture is saved by hand,
by `image.save` as a script does that calls a pipeline itself, and the way our engines do; all take turns on one idle
system. What is left is what everything else takes: gateway, router, worker, thumbnails, upload, measuring, settlement,
and the answer to the client.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from atelier_client import Atelier
from atelier_worker.engines.files import save_png
from benchmarks import ready_engine
from benchmarks.figures import Figure
from benchmarks.queues import wait_until
from benchmarks.system import system

TURNS = 25
LIMIT_MS = 40.0
"""A fiftieth of a job of two seconds."""
_WARM_UP = 3
_PATIENCE_S = 60.0
_ROOT = Path(__file__).resolve().parents[1]
_KINDS = {ready_engine.PHOTO: "like a photograph", ready_engine.NOISE: "of noise"}


def measure(folder: Path, turns: int = TURNS) -> list[Figure]:
    """Return for each kind of picture the milliseconds that the system added, of each turn."""
    sys.stderr.write("a ready picture\n")
    notes = folder / "ready.notes"
    notes.touch()
    settings = {
        "ATELIER_WORKER_ENGINE": "benchmarks.ready_engine:ReadyEngine",
        "ATELIER_WORKER_WORKER_TYPES": "sdxl",
        "PYTHONPATH": str(_ROOT),
        ready_engine.NOTES: str(notes),
    }
    with system(folder / "ready", settings) as running, Atelier(running.url, running.key) as client:
        wait_until(lambda: any(m.worker_type == "sdxl" and m.connected_workers for m in client.models()), "a worker")
        return [figure for kind in _KINDS for figure in _figures(kind, client, notes, folder, turns)]


@dataclass(frozen=True)
class _Turn:
    """The parts of one job, and saving its picture by hand in two ways, in milliseconds."""

    until_taken: float
    saving: float
    after: float
    by_a_script: float
    as_we_save: float

    def added_to(self, by_hand: float) -> float:
        return self.until_taken + self.saving + self.after - by_hand


def _figures(kind: str, client: Atelier, notes: Path, folder: Path, turns: int) -> list[Figure]:
    picture = ready_engine.picture(kind)
    taken = [_turn(kind, picture, client, notes, folder, seed) for seed in range(_WARM_UP + turns)][_WARM_UP:]
    parts = ", ".join(
        f"{name} {statistics.median(values):.1f}"
        for name, values in (
            ("until the engine has it", [turn.until_taken for turn in taken]),
            ("saving with thumbnails", [turn.saving for turn in taken]),
            ("from then to the client", [turn.after for turn in taken]),
        )
    )
    ready = f"added to a ready picture of {ready_engine.SIDE}², {_KINDS[kind]}"
    to_a_script = [turn.added_to(turn.by_a_script) for turn in taken]
    to_our_saving = [turn.added_to(turn.as_we_save) for turn in taken]
    return [
        Figure(f"{ready}: to `image.save` ({parts} ms)", statistics.median(to_a_script), "ms", LIMIT_MS, to_a_script),
        Figure(f"{ready}: to saving as we do", statistics.median(to_our_saving), "ms", LIMIT_MS, to_our_saving),
    ]


def _turn(kind: str, picture: Image.Image, client: Atelier, notes: Path, folder: Path, seed: int) -> _Turn:
    by_a_script = _ms(lambda: picture.save(folder / "by-a-script.png"))
    as_we_save = _ms(lambda: save_png(picture, folder / "by-hand.png", "{}"))
    began = time.monotonic()
    client.generate(
        kind,
        model="sdxl",
        format="image",
        seed=seed,
        width=ready_engine.SIDE,
        height=ready_engine.SIDE,
        timeout=_PATIENCE_S,
    )
    ended = time.monotonic()
    had, saved = map(float, notes.read_text("ascii").splitlines()[-1].split())
    return _Turn(1000 * (had - began), 1000 * (saved - had), 1000 * (ended - saved), by_a_script, as_we_save)


def _ms(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return 1000 * (time.monotonic() - began)
