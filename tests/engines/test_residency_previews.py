"""What previews cost in a real pipeline: at most a fiftieth of a step, measured in one run with and without."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from atelier_worker.engine import PREVIEW_LIMIT_BYTES, Context
from atelier_worker.engines.diffusers_engine import DiffusersEngine, images
from atelier_worker.engines.residency import PreviewClock, show_previews
from tests.atelier_worker.engines.listener import IMAGE
from tests.support.fake_device import RememberingContext

# diffusers hands a tensor to numpy in the old way.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
STEPS = 50
MOST = 0.02
# Where other programs fight for the caches, the medians of one run lie further apart than that by themselves.
MOST_RUNS = 3


class Turns:
    """Shows previews after every other step, and measures all steps in this thread's time on the processor.

    So neither the other programs of the machine nor its growing warm weigh on one side alone.
    """

    def __init__(self) -> None:
        self.on: list[float] = []
        self.off: list[float] = []
        self.spent_s = 0.0
        self._ended_at: float | None = None

    def show(self, context: Context, clock: PreviewClock, latents: Any, indexes: Sequence[int], family: str) -> None:
        is_on = len(self.on) <= len(self.off)
        began = time.thread_time()
        if is_on:
            show_previews(context, clock, latents, indexes, family)
        ended = time.thread_time()
        self.spent_s += ended - began
        if self._ended_at is not None:
            (self.on if is_on else self.off).append(ended - self._ended_at)
        self._ended_at = ended


def test_previews_cost_at_most_a_fiftieth_of_a_step(
    tiny_sdxl_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = DiffusersEngine({"device": "cpu", "models": [{"name": "sdxl", "source": str(tiny_sdxl_folder)}]})
    for _ in range(MOST_RUNS):
        turns, context = Turns(), RememberingContext(tmp_path)
        monkeypatch.setattr(images, "show_previews", turns.show)
        engine.run(replace(IMAGE, width=384, height=384, steps=2 * STEPS + 1), context)
        assert (len(turns.on), len(turns.off)) == (STEPS, STEPS)
        on, off = statistics.median(turns.on), statistics.median(turns.off)
        shown = len(context.previews)
        print(f"step {off * 1000:.1f} ms, with previews {on * 1000:.1f}, {shown} shown in {turns.spent_s * 1000:.1f}")
        assert shown >= 2
        # The median is blind to what happens seldom; the sum is not.
        assert turns.spent_s <= MOST * (sum(turns.on) + sum(turns.off))
        if on <= off * (1 + MOST):
            break
    assert on <= off * (1 + MOST)
    for index, file, kind in context.previews:
        assert (index, kind) == (0, "image/webp")
        assert len(file) <= PREVIEW_LIMIT_BYTES
        assert Image.open(io.BytesIO(file)).size == (48, 48)
