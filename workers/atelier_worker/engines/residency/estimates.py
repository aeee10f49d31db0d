"""How much memory a task needs beside the weights: upper estimates from sizes that are known before it runs.

They are made to be too high rather than too low: a task that is not admitted waits, one that runs out of memory is
lost. `Residency` measures what a task really took where the device counts it, and goes by the larger the next time.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any

from atelier_worker.engine import EngineError

_MIB = 1 << 20
# Contexts of libraries, text encoders at work, fragments of the allocator.
_FIXED_BYTES = 512 * _MIB
_ELEMENT_BYTES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
_STORED_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_FLOATS = ("F64", "F32", "F16", "BF16")
_LONGEST_HEADER_BYTES = 100 * _MIB  # the format's own limit


def element_bytes(dtype: str) -> int:
    """Return the bytes of one number of `dtype` (`bfloat16`, `float16`, `float32`, `float64`)."""
    if dtype not in _ELEMENT_BYTES:
        raise ValueError(f"dtype must be one of {', '.join(sorted(_ELEMENT_BYTES))}, got {dtype!r}")
    return _ELEMENT_BYTES[dtype]


def image_working_bytes(width: int, height: int, *, batch: int, dtype: str, tiled: bool = False) -> int:
    """Return what a latent diffusion model of SDXL's kind needs for `batch` images of `width` × `height` pixels.

    Two peaks follow each other, and the higher one counts. *Denoising:* the network sees the batch twice (with and
    without the prompt) at an eighth of the size with 320 channels, and keeps about 40 tensors of that size between
    its way down and its way up, attention without a stored matrix. *Decoding:* at full size the decoder has 256
    channels, of which five tensors live at once, in float32 where `dtype` is float16, in which SDXL's decoder
    overflows. It decodes one image after the other (slicing), or, `tiled`, a square of 512 pixels. The finished
    pictures are three floats a pixel, twice.
    """
    pixels = width * height
    denoising = 2 * batch * (pixels // 64) * 320 * element_bytes(dtype) * 40
    decoded = min(pixels, 512 * 512) if tiled else pixels
    decoder_bytes = 4 if dtype == "float16" else element_bytes(dtype)
    decoding = decoded * 256 * decoder_bytes * 5 + 2 * batch * pixels * 3 * 4
    return _FIXED_BYTES + max(denoising, decoding)


def video_working_bytes(
    width: int, height: int, frames: int, *, dtype: str, batch: int = 1, model_width: int = 5120, tiled: bool = False
) -> int:
    """Return what a video transformer of Wan's kind needs for `batch` videos of `frames` frames.

    *Denoising:* a token is 16 × 16 pixels of 4 frames; a block keeps about 14 tensors of tokens × `model_width`
    (queries, keys, values, the wide middle of the feed-forward part, and norms in float32), attention without a
    stored matrix; the passes with and without the prompt follow each other. *Decoding:* the decoder goes through
    time 4 frames at once, with 192 channels at full size, five tensors at once in float32 (what it remembers of the
    frames before among them); tiled, a square of 256 pixels. All frames are kept as three floats a pixel, twice.
    """
    latent_frames = (frames + 3) // 4
    tokens = latent_frames * -(-width // 16) * -(-height // 16)
    denoising = batch * tokens * model_width * element_bytes(dtype) * 14
    pixels = min(width * height, 256 * 256) if tiled else width * height
    decoding = pixels * 4 * 192 * 4 * 5 + 2 * batch * frames * width * height * 3 * 4
    return _FIXED_BYTES + max(denoising, decoding)


def weights_bytes_of(files: Iterable[Path], *, dtype: str) -> int:
    """Return what the weights in safetensors files take once floats are `dtype`, from the headers of the files.

    Format: https://huggingface.co/docs/safetensors: 8 bytes of length, little endian, then JSON.

    Raises:
        EngineError: a file is no safetensors file.
    """
    size = element_bytes(dtype)
    total = 0
    for file in files:
        for name, tensor in _header(file).items():
            if name != "__metadata__":
                stored = _STORED_BYTES.get(tensor["dtype"], 1)
                total += prod(tensor["shape"]) * (size if tensor["dtype"] in _FLOATS else stored)
    return total


def _header(file: Path) -> Mapping[str, Mapping[str, Any]]:
    broken = EngineError(f"{file.name} is no safetensors file, or it is damaged: fetch it again")
    try:
        with file.open("rb") as stream:
            start = stream.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 0 < length <= _LONGEST_HEADER_BYTES:
                raise broken
            header = json.loads(stream.read(length))
    except (OSError, ValueError) as error:
        raise broken from error
    if not isinstance(header, dict):
        raise broken
    return header
