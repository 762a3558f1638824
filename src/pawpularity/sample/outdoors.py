"""Backgrounds of the sample shelter in the open: gardens, beaches, woods.

Drawn by `pawpularity sample --photos 600 --size 160 --seed 0 --twins 5`.
"""

import numpy as np

from pawpularity.sample.brush import Brush
from pawpularity.sample.canvas import Colour, ellipse, mix


class Outdoors(Brush):
    """One method per scene."""

    def garden(self) -> None:
        """Sky, hills, a fence and grass with flowers."""
        u = self.u
        line = 0.30 + 0.34 * u[1]
        self.fade(0.0, line + 0.05, self.own((110, 170, 224), 0.05), self.own((206, 230, 240), 0.55))
        if u[2] < 0.5:
            sun = (0.1 + 0.8 * u[3], line * (0.2 + 0.4 * u[4]))
            self.glow(*sun, 0.3, (255, 244, 206), 0.7)
            self.canvas.paint(self.disc(*sun, 0.055), (255, 248, 222))
        for k in range(3):
            x, y = u[5 + k], line * (0.12 + 0.6 * u[8 + k])
            for dx, r in ((-0.07, 0.05), (0.0, 0.075), (0.08, 0.055)):
                self.canvas.paint(self.disc(x + dx, y, r, 0.62), self.own((250, 250, 255), 0.9), soft=3.0, alpha=0.8)
        for k in range(2):
            top = line - 0.16 + 0.10 * k
            hill = [(-0.1, 1.0), *((i / 5, top + 0.14 * u[11 + 6 * k + i]) for i in range(-1, 7)), (1.2, 1.0)]
            self.canvas.paint(self.at(hill), self.own((110, 150, 110), 0.05 - 0.2 * k), light=0.15)
        if u[24] < 0.4:
            fence = self.own((236, 228, 212), 0.75)
            for k in range(9):
                x = (k + 0.2) / 8.5
                picket = self.at(
                    [
                        (x, line + 0.1),
                        (x, line - 0.12),
                        (x + 0.025, line - 0.15),
                        (x + 0.05, line - 0.12),
                        (x + 0.05, line + 0.1),
                    ]
                )
                self.canvas.paint(picket, fence, light=0.15)
            self.canvas.paint(self.box(0, line - 0.07, 1, line - 0.04), fence)
        elif u[24] < 0.8:
            x, r = u[25], 0.15 + 0.12 * u[26]
            self.canvas.paint(
                self.box(x - 0.03, line - 0.25, x + 0.03, line + 0.06), self.own((112, 82, 60), -0.5), light=0.2
            )
            for dx, dy in ((-0.12, 0.0), (0.12, 0.02), (0.0, -0.1)):
                self.canvas.paint(
                    self.disc(x + dx, line - 0.28 + dy, r), self.own((96, 142, 84), -0.35), edge=0.2, light=0.3
                )
        self.grass(line + 0.02)

    def grass(self, top: float) -> None:
        """A meadow with tufts and flowers, from `top` down."""
        u = self.u
        self.fade(top, 1.0, self.own((134, 172, 92), 0.08), self.own((92, 140, 76), -0.3))
        place = np.resize(u[30:], 78).tolist()
        for k in range(26):
            x, y = place[k], top + (1.0 - top) * float((place[k + 26] * 7.3 + k / 26) % 1.0)
            lean = 0.03 * (place[k + 52] - 0.5)
            tall = 0.03 + 0.05 * (y - top)
            blades = self.at(
                [(x - 0.02, y), (x - 0.012 + lean, y - tall), (x, y), (x + 0.008 + lean, y - tall * 1.3), (x + 0.02, y)]
            )
            self.canvas.paint(blades, self.own((80, 130, 66), -0.45 if k % 2 else 0.25), alpha=0.8)
            if k % 4 == 0 and u[27] < 0.7:
                petal: Colour = ((250, 236, 240), (240, 170, 190), (250, 220, 110))[k % 3]
                self.canvas.paint(self.disc(x + lean, y - tall, 0.017), petal)
                self.canvas.paint(self.disc(x + lean, y - tall, 0.007), (222, 160, 60))

    def beach(self) -> None:
        """Sky, sea and sand."""
        u = self.u
        sea, sand = 0.2 + 0.25 * u[1], 0.45 + 0.25 * u[2]
        warm = u[3] < 0.35
        self.fade(
            0.0,
            sea,
            self.own((240, 170, 130) if warm else (130, 186, 230), 0.1),
            self.own((250, 220, 180) if warm else (214, 234, 240), 0.6),
        )
        x = 0.1 + 0.8 * u[4]
        self.glow(x, sea * 0.5, 0.25, (255, 240, 200), 0.7)
        self.canvas.paint(self.disc(x, sea * 0.5, 0.06), (255, 248, 220))
        self.fade(sand, 1.0, self.own((226, 198, 150), 0.12), self.own((226, 198, 150), 0.0))
        self.fade(sea, sand + 0.05, self.own((70, 130, 160), -0.4), self.own((120, 180, 186), 0.05))
        for k in range(6):
            y = sea + (sand - sea) * (k + 0.5 * u[5 + k]) / 6
            wave = [(u[11 + k] - 0.3, y), (u[11 + k] - 0.1, y - 0.008), (u[11 + k] + 0.25, y)]
            self.canvas.line(self.at(wave), 0.012 * self.unit, (244, 250, 250), alpha=0.6)
        shore = [(-0.1, 1.1), *((i / 4, sand - 0.04 + 0.09 * u[19 + i]) for i in range(-1, 6)), (1.3, 1.1)]
        self.canvas.paint(self.at(shore), self.own((226, 198, 150), 0.12), light=0.15)
        for k in range(3):
            if u[26 + k] < 0.6:
                self.canvas.paint(
                    self.disc(u[30 + k], 0.8 + 0.18 * u[33 + k], 0.03, 0.7),
                    self.own((240, 200, 190), 0.5),
                    edge=0.3,
                )
        if u[36] < 0.5:
            side = 0.12 + 0.76 * (u[37] < 0.5)
            self.canvas.paint(self.box(side - 0.008, 0.2, side + 0.008, sand + 0.12), self.own((240, 236, 230), 0.5))
            top = [(side - 0.26, 0.30), (side - 0.14, 0.14), (side, 0.1), (side + 0.14, 0.14), (side + 0.26, 0.30)]
            self.canvas.paint(self.at(top), self.colour(1, -0.3), light=0.3)
            self.canvas.paint(
                self.at([(side - 0.1, 0.30), (side, 0.1), (side + 0.1, 0.30)]), self.colour(1, 0.7), light=0.3
            )

    def wood(self) -> None:
        """Trunks before green."""
        u = self.u
        foot = 0.5 + 0.22 * u[1]
        autumn = u[2] < 0.5
        mist = self.own((236, 206, 160) if autumn else (190, 214, 196), 0.45)
        self.fade(0.0, foot, self.own((150, 130, 96) if autumn else (96, 140, 120), -0.1), mist)
        self.glow(u[3], 0.35, 0.35, (255, 246, 214), 0.5)
        for k in range(9):
            depth = k / 8
            x, wide = u[4 + k], (0.02 + 0.05 * depth) * (0.7 + 0.6 * u[13 + k])
            y = foot + 0.14 * depth
            bark = mix(mist, self.own((84, 62, 50), -0.8), 0.35 + 0.65 * depth)
            lean = 0.05 * (u[22 + k] - 0.5)
            trunk = self.at(
                [(x - wide + lean, -0.05), (x + wide + lean, -0.05), (x + wide * 1.1, y), (x - wide * 1.1, y)]
            )
            if k == 4:
                self.fade(
                    foot,
                    1.0,
                    self.own((178, 130, 78) if autumn else (110, 140, 84), 0.0),
                    self.own((120, 84, 54) if autumn else (70, 100, 60), -0.35),
                )
            self.canvas.paint(trunk, bark, light=0.35)
        leaf: tuple[Colour, ...] = (
            ((214, 120, 50), (230, 170, 70), (180, 80, 50))
            if autumn
            else ((110, 160, 80), (150, 190, 100), (80, 130, 80))
        )
        scatter = np.resize(u[5:75], 120).tolist()
        for k in range(30):
            y = foot + (1 - foot) * float((scatter[k + 30] * 3.7 + k / 30) % 1.0)
            x, turn = float((scatter[k] * 5.3) % 1.0), 180 * scatter[k + 60]
            size = (0.012 + 0.02 * (y - foot)) * self.unit
            self.canvas.paint(
                ellipse(x * self.w, y * self.h, size * 1.5, size * 0.7, turn, steps=8),
                self.own(leaf[k % 3], 0.25 - 0.4 * (k % 2)),
            )
        if u[40] < 0.6:  # a canopy hanging into the picture
            for k in range(7):
                self.canvas.paint(
                    self.disc(u[41 + k], 0.08 * u[48 + k], 0.12),
                    self.own(leaf[k % 3], -0.1),
                    edge=0.25,
                    light=0.2,
                )
