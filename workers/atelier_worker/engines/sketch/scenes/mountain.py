"""Mountains over a lake, with conifers on its shore."""

from __future__ import annotations

import numpy as np

from ..canvas import Canvas, darker, lighter, mix
from .base import Layer, Scene
from .kit import falling, flock, hill, mist, peak, ridge, sky
from .plants import conifer


class Mountain(Scene):
    """A great peak, nearer ridges, water, trees in front."""

    name = "mountain"

    def compose(self, rng: np.random.Generator) -> None:
        self.horizon = self.h * float(rng.uniform(0.52, 0.72))
        self.top = self.h * float(rng.uniform(0.08, 0.24))
        self.x = self.w * float(rng.uniform(0.25, 0.75))
        self.count = int(rng.integers(2, 5))
        self.lake = bool(rng.random() < 0.75) or self.reading.has("lake", "river", "fjord")
        self.snowy = not self.reading.has("desert", "volcano")

    def layers(self) -> list[Layer]:
        return [
            Layer("sky", self._sky, 0.0, "drift"),
            Layer("peaks", self._peaks, 0.15),
            Layer("ridges", self._ridges, 0.3),
            Layer("water", self._water, 0.5, "water"),
            Layer("shore", self._shore, 0.9),
            *falling(self),
        ]

    def _sky(self, c: Canvas) -> None:
        sky(c, self, self.horizon, cloudy=0.55)
        flock(c, self.rand("birds"), self.w * 0.3, self.h * 0.2, 0.08, 9, darker(self.look.haze, 0.5))

    def _peaks(self, c: Canvas) -> None:
        rng = self.rand("peaks")
        snow = self.look.tone((246, 250, 255), 0.15) if self.snowy else None
        for i in range(self.count):
            x = self.x + (i - self.count / 2) * float(rng.uniform(0.3, 0.6)) + 0.2
            top = self.top + (0.08 + 0.16 * float(rng.random())) * self.h
            rock = self.look.far((104, 112, 132), 0.5)
            peak(c, rng, x, top, self.horizon, float(rng.uniform(0.35, 0.6)), rock, darker(rock, 0.25), snow)
        rock = self.look.far((96, 96, 112), 0.22)
        peak(c, rng, self.x, self.top, self.horizon + 0.02, 0.62, lighter(rock, 0.1), darker(rock, 0.35), snow)

    def _ridges(self, c: Canvas) -> None:
        rng = self.rand("ridges")
        for i, distance in enumerate((0.5, 0.3)):
            skyline = ridge(rng, -0.1, self.w + 0.1, self.horizon + 0.03 * i, 0.16 - 0.05 * i, rough=0.55)
            color = self.look.far((58, 92, 84), distance)
            hill(c, skyline, self.horizon + 0.1, color, mix(color, self.look.haze, 0.3))
        mist(c, rng, self.horizon - 0.01, 0.07, lighter(self.look.haze, 0.3), 0.7)

    def _water(self, c: Canvas) -> None:
        if self.lake:
            c.reflect(
                self.horizon, tint=self.look.tone((50, 92, 120)), amount=0.55, ripple=0.008, rng=self.rand("ripples")
            )
        else:
            skyline = ridge(self.rand("meadow"), -0.1, self.w + 0.1, self.horizon + 0.06, 0.07)
            hill(c, skyline, self.h, self.look.tone((128, 154, 84)), self.look.tone((52, 88, 50)))

    def _shore(self, c: Canvas) -> None:
        rng = self.rand("shore")
        left = bool(rng.random() < 0.5)
        dark = darker(self.look.tone((34, 70, 58)), 0.25)
        skyline = ridge(rng, -0.1, self.w + 0.1, self.h * 0.97, 0.08)
        hill(c, skyline, self.h + 0.05, dark, darker(dark, 0.5))
        for i in range(11):
            side = float(rng.random()) ** 1.6 * self.w * 0.45
            x = side if left == (i % 4 != 0) else self.w - side
            conifer(
                c,
                rng,
                x,
                self.h * float(rng.uniform(0.93, 1.0)),
                float(rng.uniform(0.2, 0.5)),
                dark,
                self.look.tone((240, 244, 250)) if self.weather("snow") else None,
            )
