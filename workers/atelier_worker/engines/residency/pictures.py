"""Whether what a model made is a picture at all.

A model that overflows (half precision is the usual way) makes values that are no numbers, and the libraries turn
these into exact black. So a picture that is one exact colour from corner to corner is taken as broken: what a decoder
makes of "a black square" has noise in it. Floating-point values are looked at as they are, before anything rounds them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from atelier_worker.engine import EngineError

_REMEDY = "another seed may work; if it happens again, the worker should run this model in bfloat16 or float32"


def check_finite(values: Any, *, what: str = "picture") -> None:
    """Check latents or decoded values, a tensor or an array of floats of any shape.

    Raises:
        EngineError: some of them are NaN or infinite.
    """
    finite = bool(values.isfinite().all()) if hasattr(values, "isfinite") else bool(np.isfinite(values).all())
    if not finite:
        raise EngineError(f"The model made a {what} with values that are no numbers (NaN or infinite); {_REMEDY}.")


def check_picture(image: Image.Image | np.ndarray[Any, Any], *, may_be_plain: bool = False) -> None:
    """Check one picture, or the frames of a video as one array, colours in the last dimension.

    With `may_be_plain` one colour is fine, as where a reference is plain and hardly anything may be changed.

    Raises:
        EngineError: NaN or infinite values, or one exact colour all over (black above all).
    """
    pixels = np.asarray(image)
    if pixels.size == 0:
        raise EngineError("The model made a picture without pixels.")
    if np.issubdtype(pixels.dtype, np.inexact):
        check_finite(pixels)
    if may_be_plain:
        return
    colours = pixels.reshape(-1, pixels.shape[-1] if pixels.ndim > 2 else 1)
    if colours.shape[0] > 1 and bool((colours == colours[0]).all()):
        colour = "black" if not colours[0][:3].any() else "of one colour"
        raise EngineError(f"The model made a picture that is {colour} all over; {_REMEDY}.")
