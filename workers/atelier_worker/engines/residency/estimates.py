"""How much memory a task needs beside the weights: upper estimates from sizes that are known before it runs.

They are made to be too high rather than too low: a task that is not admitted waits, one that runs out of memory is
lost. `Residency` measures what a task really took where the device counts it, and goes by the larger the next time.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from atelier_worker.engine import EngineError
from atelier_worker.weight_files import DTYPE_BYTES, BrokenFile, memory_bytes
from service_kit.units import MIB

# Contexts of libraries, text encoders at work, fragments of the allocator.
_FIXED_BYTES = 512 * MIB


def element_bytes(dtype: str) -> int:
    """Return the bytes of one number of `dtype` (`bfloat16`, `float16`, `float32`)."""
    if dtype not in DTYPE_BYTES:
        raise ValueError(f"dtype must be one of {', '.join(sorted(DTYPE_BYTES))}, got {dtype!r}")
    return DTYPE_BYTES[dtype]


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

    Raises:
        EngineError: a file is no safetensors file, or not all of one; the sentence has its name without the folder.
    """
    element_bytes(dtype)  # refuses another name
    total = 0
    for file in files:
        try:
            total += memory_bytes([file], dtype)
        except BrokenFile as error:
            raise EngineError(f"{file.name} is no safetensors file, or it is damaged: fetch it again") from error
    return total
