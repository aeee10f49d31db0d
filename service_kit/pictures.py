"""How a picture that somebody sent is meant to look: upright, and in eight bits. Needs Pillow."""

from __future__ import annotations

from PIL import Image

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a picture upright, by its orientation (Exif 2.32, tag 0x0112)."""


def as_meant(picture: Image.Image) -> Image.Image:
    """Return a picture upright and with eight bits of a colour, in whatever mode it then has.

    Pillow's own turning writes the Exif data anew, which fails on the odd ones of some cameras, and its conversion
    keeps the lower eight of sixteen bits of grey, which makes nearly all of it white.
    """
    turn = _TURNS.get(picture.getexif().get(_ORIENTATION, 1))
    if turn is not None:
        picture = picture.transpose(turn)
    if picture.mode.startswith("I"):
        return picture.point(lambda level: level * (1 / 256)).convert("L")
    return picture
