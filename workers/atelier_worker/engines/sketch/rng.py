"""Randomness that is the same in every process: generators derived from SHA-256, never from `hash()`."""

from __future__ import annotations

import hashlib

import numpy as np


def generator(*parts: str | int) -> np.random.Generator:
    """Return the generator that belongs to these parts, in this order; the same parts give the same numbers anywhere."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return np.random.Generator(np.random.PCG64(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big")))
