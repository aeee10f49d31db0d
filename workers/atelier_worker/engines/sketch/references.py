"""References that the client sent: what each kind does to a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageFilter

from atelier_worker.engine import Reference
from atelier_worker.engines.files import read_picture

from .palette import match


@dataclass(frozen=True, slots=True)
class _Guide:
    kind: str
    strength: float
    picture: Image.Image


@dataclass(frozen=True, slots=True)
class Guides:
    """The references of one picture, read and cut to its shape.

    `style` moves the colours to the reference's; `composition` blends in the large light and dark of the reference;
    `init` blends the reference itself, softened; `mask` is white where the picture is painted, and keeps the `init`
    picture (or blank paper) where it is black. The strength scales each.
    """

    guides: tuple[_Guide, ...]

    @classmethod
    def load(cls, references: Sequence[Reference], width: int, height: int) -> Guides:
        """Read the references that guide a picture.

        Raises:
            EngineError: a file is no picture that can be read.
        """
        kinds = ("style", "composition", "init", "first_frame", "mask")
        used = sorted((r for r in references if r.kind in kinds and r.strength > 0), key=lambda r: kinds.index(r.kind))
        return cls(tuple(_Guide(r.kind, min(1.0, r.strength), read_picture(r, width, height)) for r in used))

    def apply(self, picture: Image.Image) -> Image.Image:
        """The picture as its references want it."""
        size, start = picture.size, None
        for guide in self.guides:
            reference = guide.picture.resize(size, Image.Resampling.BILINEAR)
            if guide.kind == "style":
                picture = match(picture, reference.resize((64, 64), Image.Resampling.BOX), guide.strength)
            elif guide.kind == "composition":
                picture = _with_light_of(picture, reference, 0.75 * guide.strength)
            elif guide.kind == "mask":
                outside = start if start is not None else Image.new("RGB", size, (244, 240, 230))
                kept = reference.convert("L").point([round((255 - i) * guide.strength) for i in range(256)])
                picture = Image.composite(outside, picture, kept)
            else:
                start = reference
                picture = Image.blend(
                    picture, reference.filter(ImageFilter.BoxBlur(max(size) / 256)), 0.8 * guide.strength
                )
        return picture


def _with_light_of(picture: Image.Image, reference: Image.Image, strength: float) -> Image.Image:
    light, blue, red = picture.convert("YCbCr").split()
    wanted = reference.convert("L").filter(ImageFilter.BoxBlur(max(picture.size) / 48))
    return Image.merge("YCbCr", (Image.blend(light, wanted, strength), blue, red)).convert("RGB")
