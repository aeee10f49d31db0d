"""Soft random fields: clouds, washes, paper. All values are 0..1 unless said otherwise."""

from __future__ import annotations

import numpy as np
from PIL import Image

from .canvas import Floats


def clouds(
    rng: np.random.Generator, rows: int, columns: int, *, cells: float = 3.0, octaves: int = 4, stretch: float = 1.0
) -> Floats:
    """Smooth fractal noise of this shape; `cells` bumps across the short side, `stretch` times wider than high."""
    total = np.zeros((rows, columns), np.float32)
    weight = 1.0
    across = cells * columns / min(rows, columns) / stretch
    down = cells * rows / min(rows, columns)
    for octave in range(octaves):
        grid = rng.random(
            (max(2, round(down * 2**octave)) + 1, max(2, round(across * 2**octave)) + 1), dtype=np.float32
        )
        layer = Image.fromarray(grid).resize((columns, rows), Image.Resampling.BICUBIC)
        total += np.asarray(layer, np.float32) * weight
        weight *= 0.5
    low, high = float(total.min()), float(total.max())
    return (total - low) / max(1e-6, high - low)


def grain(rng: np.random.Generator, rows: int, columns: int) -> Floats:
    """Fine noise of this shape, about -1..1."""
    tile = rng.standard_normal((min(rows, 256), min(columns, 256)), dtype=np.float32)
    reps = (-(-rows // tile.shape[0]), -(-columns // tile.shape[1]))
    return np.tile(tile, reps)[:rows, :columns]
