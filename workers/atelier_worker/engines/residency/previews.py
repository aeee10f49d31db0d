"""Pictures of an output in the making: a linear map from latents to colours, seldom enough to cost next to nothing.

A decoder would show more and cost a large part of a step. A latent of these families is nearly a picture by itself,
eight times smaller: a small matrix makes colours of its channels. The numbers are fits of decoded pictures to their
latents, the same in most tools for these models.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from PIL import Image

from atelier_worker.engine import PREVIEW_LIMIT_BYTES, Context

PREVIEW_TYPE: Final = "image/webp"
_SIDE_PX = 256
_QUALITIES = (75, 40, 10)
Array = np.ndarray[Any, np.dtype[np.float32]]


class _Map(NamedTuple):
    """A row of red, green and blue for each channel, and what is added to each colour; colours are -1 to 1."""

    rows: Array
    bias: Array


def _map(rows: Sequence[Sequence[float]], bias: Sequence[float] = (0.0, 0.0, 0.0)) -> _Map:
    return _Map(np.array(rows, np.float32), np.array(bias, np.float32))


_MAPS: Final = {
    "sd15": _map(
        [
            [0.3512, 0.2297, 0.3227],
            [0.3250, 0.4974, 0.2350],
            [-0.2829, 0.1762, 0.2721],
            [-0.2120, -0.2616, -0.7177],
        ]
    ),
    "sdxl": _map(
        [
            [0.3651, 0.4232, 0.4341],
            [-0.2533, -0.0042, 0.1068],
            [0.1076, 0.1111, -0.0362],
            [-0.3165, -0.2492, -0.2188],
        ],
        [0.1084, -0.0175, -0.0011],
    ),
    "wan": _map(
        [
            [-0.1299, -0.1692, 0.2932],
            [0.0671, 0.0406, 0.0442],
            [0.3568, 0.2548, 0.1747],
            [0.0372, 0.2344, 0.1420],
            [0.0313, 0.0189, -0.0328],
            [0.0296, -0.0956, -0.0665],
            [-0.3477, -0.4059, -0.2925],
            [0.0166, 0.1902, 0.1975],
            [-0.0412, 0.0267, -0.1364],
            [-0.1293, 0.0740, 0.1636],
            [0.0680, 0.3019, 0.1128],
            [0.0032, 0.0581, 0.0639],
            [-0.1251, 0.0927, 0.1699],
            [0.0060, -0.0633, 0.0005],
            [0.3477, 0.2275, 0.2950],
            [0.1984, 0.0913, 0.1861],
        ],
        [-0.1835, -0.0868, -0.3360],
    ),
}


def latent_preview(latents: Any, family: str) -> bytes:
    """Return a WebP file of one output's latents, at most 256 pixels on its longer side and 64 KiB.

    `latents` are channels × height × width, or channels × frames × height × width, of which the middle frame is
    shown, as the model sees them (scaled); a tensor on any device or an array. `family` is `sdxl`, `sd15` or `wan`;
    where it is another, or has another number of channels (tiny models), the first three channels are the colours.
    """
    plane = _plane(latents)
    # Noise of a schedule with large sigmas is many times as strong as a picture; without this it is all glare.
    plane = plane / max(1.0, float(plane.std()))
    known = _MAPS.get(family)
    if known is not None and known.rows.shape[0] == plane.shape[0]:
        colours = np.moveaxis(plane, 0, -1) @ known.rows + known.bias
    else:
        colours = np.moveaxis(np.resize(plane[:3], (3, *plane.shape[1:])), 0, -1) / 2
    pixels = np.nan_to_num((np.clip(colours, -1, 1) + 1) * 127.5).astype(np.uint8)
    return _encoded(Image.fromarray(pixels))


def _plane(latents: Any) -> Array:
    """Return one channels × height × width, in numpy."""
    if latents.ndim == 4:
        latents = latents[:, latents.shape[1] // 2]
    if latents.ndim != 3:
        raise ValueError(f"latents of one output have 3 or 4 dimensions, got {latents.ndim}")
    if hasattr(latents, "detach"):
        latents = latents.detach().to("cpu").float().numpy()
    return np.asarray(latents, np.float32)


def _encoded(picture: Image.Image) -> bytes:
    scale = _SIDE_PX / max(picture.size)
    if scale < 1:
        small = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(small, Image.Resampling.BILINEAR)
    for quality in _QUALITIES:
        file = io.BytesIO()
        picture.save(file, "WEBP", quality=quality, method=0)
        if file.tell() <= PREVIEW_LIMIT_BYTES:
            break
    return file.getvalue()


class PreviewClock:
    """Says when a preview is worth its time: two a second for each output, and a fiftieth of the time in all."""

    def __init__(
        self, *, pause_s: float = 0.5, share: float = 0.02, now: Callable[[], float] = time.perf_counter
    ) -> None:
        """Show one output every `pause_s` at most, and spend at most `share` of the time on all of them."""
        self._pause_s = pause_s
        self._share = share
        self._now = now
        self._shown_at: dict[int, float] = {}
        self._not_before = self._now()

    def due(self, indexes: Sequence[int]) -> int | None:
        """Return the output whose turn it is, the one that was not shown for longest; None when it is too early."""
        now = self._now()
        if now < self._not_before or not indexes:
            return None
        index = min(indexes, key=lambda each: self._shown_at.get(each, -1.0))
        shown_at = self._shown_at.get(index)
        return index if shown_at is None or now - shown_at >= self._pause_s else None

    def show(self, index: int, make: Callable[[], None]) -> None:
        """Run `make`, which shows an output, and note what it cost."""
        began = self._now()
        try:
            make()
        finally:
            ended = self._now()
            self._shown_at[index] = ended
            self._not_before = ended + (ended - began) / self._share


def show_previews(context: Context, clock: PreviewClock, latents: Any, indexes: Sequence[int], family: str) -> None:
    """Show what is due of a batch of latents (outputs first), one row for each of `indexes`; call it after each step.

    One output is shown at a time: in a batch they take turns.
    """
    index = clock.due(indexes)
    if index is None:
        return
    if getattr(latents, "is_cuda", False):
        # The step's own kernels must not count as the preview's cost.
        import torch

        torch.cuda.synchronize(latents.device)
    row = latents[list(indexes).index(index)]
    clock.show(index, lambda: context.preview(index, latent_preview(row, family), PREVIEW_TYPE))
