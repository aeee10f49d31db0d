"""Files for tests: small, real, and the same each time."""

from __future__ import annotations

import io
from pathlib import Path
from typing import cast

import av
import numpy as np
from PIL import Image


def png(width: int = 32, height: int = 24, seed: int = 0) -> bytes:
    """Return a PNG of noise."""
    return encoded("PNG", width, height, seed)


def encoded(name: str, width: int = 32, height: int = 24, seed: int = 0, **options: object) -> bytes:
    """Return noise in a format of Pillow."""
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, name, **options)
    return target.getvalue()


_INDEX = {"last": {}, "first": {"movflags": "+faststart"}, "parts": {"movflags": "+frag_keyframe+empty_moov"}}


def mp4(
    folder: Path,
    width: int = 64,
    height: int = 48,
    frames: int = 12,
    rate: int = 8,
    index: str = "last",
    codec: str = "h264",
) -> bytes:
    """Return a video of noise; its index of frames comes `first`, `last` or in `parts`."""
    path = folder / "made.mp4"
    random = np.random.default_rng(0)
    with av.open(str(path), "w", options=_INDEX[index]) as container:
        stream = cast(av.VideoStream, container.add_stream(codec, rate=rate))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for _ in range(frames):
            pixels = random.integers(0, 255, (height, width, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return path.read_bytes()
