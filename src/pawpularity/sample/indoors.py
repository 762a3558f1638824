"""Backgrounds of the sample shelter within doors: rooms, sofas, blankets, kennels, studio backdrops.

Drawn by `pawpularity sample --photos 600 --size 160 --seed 0 --twins 5`.
"""

import numpy as np

from pawpularity.sample.brush import Brush, grid
from pawpularity.sample.canvas import mix, smooth


class Indoors(Brush):
    """One method per scene, and what stands in them."""

    def room(self) -> None:
        """A wall, furniture before it, and a floor."""
        foot = 0.48 + 0.32 * self.u[1]
        self.wall(foot)
        self.furniture(foot)
        self.floor(foot)

    def sofa(self) -> None:
        """A sofa before a wall."""
        u = self.u
        self.wall(1.0)
        if u[60] < 0.6:
            self.furniture(0.62)
        top, seat = 0.26 + 0.2 * u[61], 0.66 + 0.12 * u[62]
        shift = 0.3 * (u[63] - 0.5)
        cloth = self.colour(2, -0.25 + 0.5 * u[64])
        paint = self.canvas.paint
        for x0, x1 in ((-0.02, 0.5), (0.5, 1.02)):
            back = self.at(
                smooth([(x0 + shift, seat), (x0 + 0.02 + shift, top), (x1 - 0.02 + shift, top), (x1 + shift, seat)], 4)
            )
            paint(back, cloth, light=0.25, edge=0.22)
        self.fade(seat, 1.0, mix(cloth, (255, 255, 255), 0.14), mix(cloth, (0, 0, 0), 0.22))
        paint(self.box(0, seat - 0.006, 1, seat + 0.012), mix(cloth, (0, 0, 0), 0.4), alpha=0.7)
        paint(self.box(0, 0.93, 1, 0.94), mix(cloth, (0, 0, 0), 0.4), alpha=0.5)
        side = 0.10 if u[65] < 0.5 else 0.90
        paint(self.disc(side, seat - 0.06, 0.22, 1.0), mix(cloth, (0, 0, 0), 0.12), light=0.3, edge=0.2)
        if u[66] < 0.7:
            x, y = 1.0 - side + 0.06 * (u[67] - 0.5), seat - 0.10
            pillow = smooth([(x - 0.16, y - 0.11), (x + 0.15, y - 0.14), (x + 0.17, y + 0.12), (x - 0.14, y + 0.13)], 5)
            paint(self.at(pillow), self.colour(1, 0.55), light=0.3, edge=0.25)
            paint(self.disc(x, y, 0.05), self.colour(0, -0.2), alpha=0.8)

    def blanket(self) -> None:
        """A blanket that fills the picture."""
        u = self.u
        self.fade(0.0, 1.0, self.colour(0, 0.18), self.colour(0, -0.18))
        self.pattern(int(u[1] * 5), self.colour(1, 0.6 if u[2] < 0.5 else -0.5), u[3:], 0.0, 1.0)
        if u[9] < 0.6:
            self.pattern(int(u[10] * 5), self.colour(2, -0.4), [*u[11:15], 0.1], 0.0, 1.0)
        x, y = grid(self.w, self.h)
        fold = np.sin(x * (3 + 6 * u[16]) + y * (2 + 8 * u[17]) + 6 * u[18]) + 0.6 * np.sin(
            x * 9 * u[19] - y * 11 * u[20] + 3
        )
        self.canvas.planes *= 1.0 + np.float32(0.13) * fold.astype(np.float32)
        if u[21] < 0.5:  # a bed's rim, or the floor beside the blanket
            side = self.at(
                smooth(
                    [
                        (-0.2, -0.2),
                        (1.2, -0.2),
                        (1.2, 0.1 + 0.2 * u[22]),
                        (0.5, 0.05 + 0.15 * u[23]),
                        (-0.2, 0.3 * u[24]),
                    ]
                )
            )
            self.canvas.paint(side, self.own((166, 120, 84), -0.2 + 0.5 * u[25]), light=0.1)

    def kennel(self) -> None:
        """A kennel: wall, floor and bars."""
        u = self.u
        foot = 0.55 + 0.25 * u[1]
        steel = mix(self.hues[0], (150, 158, 166), 0.6)
        self.fade(0.0, foot, self.own(steel, 0.25), self.own(steel, -0.1))
        self.pattern(5, self.own(steel, -0.4), [0.0, u[2], u[3], 0.0, 0.9], 0.0, foot)
        self.fade(foot, 1.0, self.own((168, 160, 150), 0.12), self.own((140, 132, 124), -0.25))
        if u[4] < 0.5:  # a bed of straw or a mat
            self.canvas.paint(self.disc(0.2 + 0.6 * u[5], 0.94, 0.5, 0.3), self.colour(1, 0.3), edge=0.2, light=0.2)
        bars = 5 + int(u[6] * 6)
        x0, x1 = (0.0, 1.0) if u[7] < 0.4 else ((0.0, 0.45) if u[7] < 0.7 else (0.55, 1.0))
        dark = self.own((90, 96, 104), -0.6)
        for k in range(bars):
            x = x0 + (x1 - x0) * (k + 0.5) / bars
            self.canvas.paint(self.box(x - 0.008, 0, x + 0.008, foot), dark, light=0.5)
        for y in (0.03 + 0.3 * u[8], foot - 0.06):
            self.canvas.paint(self.box(x0, y, x1, y + 0.018), dark, light=0.3)
        self.glow(u[9], 0.2 * u[10], 0.35 + 0.3 * u[11], self.own((255, 250, 230), 0.9), 0.6)

    def backdrop(self) -> None:
        """A photographer's backdrop: a plain gradient."""
        u = self.u
        self.fade(0.0, 1.0, self.colour(0, 0.9 * u[1] - 0.45), self.colour(1, 0.9 * u[2] - 0.45))
        self.glow(u[3], u[4], 0.3 + 0.3 * u[5], self.colour(1, 0.8), 0.8)
        self.glow(u[6], u[7], 0.25 + 0.3 * u[8], self.colour(2, -0.6), 0.7)
        for k in range(14):
            r = 0.03 + 0.10 * u[9 + k]
            spot = self.disc(u[24 + k], u[40 + k], r)
            self.canvas.paint(spot, self.colour(k % 3, 0.9 if k % 3 else -0.5), alpha=0.28 + 0.25 * u[60], soft=2.0)
        if u[61] < 0.6:
            y = 0.7 + 0.15 * u[62]
            self.fade(y, 1.0, self.colour(2, 0.15), self.colour(2, -0.35))

    def wall(self, foot: float) -> None:
        """A wall down to `foot`, a share of the height."""
        u = self.u[8:]
        self.fade(0.0, foot, self.colour(0, 0.25 + 0.3 * (u[0] - 0.5)), self.colour(0, -0.15))
        kind = int(u[1] * 8)
        if kind < 6:
            self.pattern(kind, self.colour(1 if u[2] < 0.5 else 0, 0.5 if u[3] < 0.6 else -0.4), u[4:], 0.0, foot)
        if u[9] < 0.35:  # wainscot
            top = foot * (0.55 + 0.2 * u[10])
            self.fade(top, foot, self.colour(2, 0.05), self.colour(2, -0.2))
            self.fade(top - 0.012, top + 0.012, self.colour(2, 0.6), self.colour(2, 0.3))

    def furniture(self, foot: float) -> None:
        """Something on or before the wall: a window, pictures, a shelf, a lamp, a cupboard."""
        u, canvas = self.u[24:], self.canvas
        kind = int(u[0] * 6)
        left = u[1] < 0.5
        x = 0.02 + 0.22 * u[2] if left else 0.58 + 0.16 * u[2]
        if kind in (0, 1):
            self.window(x, foot * (0.05 + 0.12 * u[3]), 0.26 + 0.16 * u[4], foot * (0.5 + 0.2 * u[5]))
        elif kind == 2:
            for k in range(2 + int(u[3] * 3)):
                px, py = 0.04 + 0.86 * ((u[4] + 0.37 * k) % 1.0), foot * (0.08 + 0.4 * u[5 + k])
                w, h = 0.10 + 0.10 * u[9 + k], 0.10 + 0.08 * u[12 + k]
                canvas.paint(self.box(px, py, px + w, py + h), self.own((120, 80, 50), -0.4))
                canvas.paint(self.box(px + 0.02, py + 0.015, px + w - 0.02, py + h - 0.015), self.colour(k % 3, 0.7))
                canvas.paint(self.disc(px + w / 2, py + h / 2, 0.02), self.colour((k + 1) % 3, -0.3))
        elif kind == 3:
            for k in range(2):
                y = foot * (0.2 + 0.32 * k + 0.1 * u[3])
                canvas.paint(self.box(x - 0.06, y, x + 0.36, y + 0.022), self.own((150, 104, 66), -0.2), light=0.3)
                for b in range(6):
                    t = x - 0.05 + 0.062 * b
                    top = y - 0.07 - 0.07 * u[4 + b]
                    canvas.paint(self.box(t, top, t + 0.045, y), self.colour(b % 3, 0.7 * u[5 + b] - 0.35), light=0.2)
        elif kind == 4:
            canvas.paint(self.box(x + 0.1, foot * 0.3, x + 0.115, foot), self.own((110, 90, 70), -0.4))
            shade = self.at(
                [(x, foot * 0.42), (x + 0.05, foot * 0.16), (x + 0.165, foot * 0.16), (x + 0.215, foot * 0.42)]
            )
            canvas.paint(shade, self.own((250, 222, 160), 0.8), light=0.2)
            self.glow(x + 0.1, foot * 0.36, 0.4, (255, 236, 190), 0.4)
        else:
            y = foot * (0.35 + 0.2 * u[3])
            canvas.paint(
                self.box(x - 0.04, y, x + 0.34, foot + 0.03), self.own((146, 100, 64), -0.25), light=0.25, edge=0.1
            )
            for k in range(2):
                a = y + (foot - y) * (0.1 + 0.46 * k)
                canvas.paint(
                    self.box(x - 0.01, a, x + 0.31, a + 0.36 * (foot - y)), self.own((166, 120, 80), -0.05), light=0.2
                )
                canvas.paint(self.disc(x + 0.15, a + 0.18 * (foot - y), 0.014), self.own((230, 190, 110), 0.4))

    def window(self, x: float, y: float, w: float, h: float) -> None:
        """A window; x, y, w and h in shares of the picture."""
        canvas, frame = self.canvas, self.colour(2, 0.75)
        canvas.paint(self.box(x - 0.015, y - 0.012, x + w + 0.015, y + h + 0.012), frame)
        bright = self.u[20] < 0.7
        sky = self.own((150, 196, 232), 0.7 if bright else -0.75)
        canvas.paint(self.box(x, y, x + w, y + h), sky, light=0.25)
        if bright:
            canvas.paint(
                self.at(
                    smooth(
                        [
                            (x, y + h),
                            (x, y + 0.7 * h),
                            (x + 0.5 * w, y + 0.6 * h),
                            (x + w, y + 0.8 * h),
                            (x + w, y + h),
                        ],
                        closed=False,
                    )
                ),
                self.own((130, 170, 110), 0.2),
            )
        else:
            canvas.paint(self.disc(x + 0.7 * w, y + 0.3 * h, 0.03), (250, 240, 200))
        canvas.paint(self.box(x + 0.48 * w, y, x + 0.52 * w, y + h), frame)
        canvas.paint(self.box(x, y + 0.47 * h, x + w, y + 0.53 * h), frame)
        if self.u[21] < 0.5:
            cloth = self.colour(1, -0.25)
            for side in (0, 1):
                edge = x - 0.05 if side == 0 else x + w + 0.05
                inner = x + 0.16 * w if side == 0 else x + 0.84 * w
                canvas.paint(
                    self.box(min(edge, inner), y - 0.04, max(edge, inner), y + h + 0.1), cloth, light=0.3, edge=0.25
                )

    def floor(self, top: float) -> None:
        """A floor from `top`, a share of the height, down."""
        u = self.u[44:]
        kind = int(u[0] * 4)
        wood = self.own((176, 128, 86), -0.05 - 0.3 * u[1]) if u[1] < 0.5 else self.colour(2, -0.3 + 0.5 * u[1])
        self.fade(top, 1.0, mix(wood, (255, 255, 255), 0.10), mix(wood, (0, 0, 0), 0.16))
        line = mix(wood, (0, 0, 0), 0.30)
        if kind == 0:  # boards running away from us
            for k in range(-6, 13):
                foot = 0.5 + (k - 3) * 0.17
                away = 0.5 + (k - 3) * 0.10
                self.canvas.line(self.at([(away, top), (foot, 1.0)]), 0.008 * self.unit, line, alpha=0.6)
        elif kind == 1:  # boards across
            y = top
            for k in range(7):
                y += 0.018 + 0.014 * k
                self.canvas.paint(self.box(0, y, 1, y + 0.007), line, alpha=0.6)
        elif kind == 2:
            gx, gy = grid(self.w, self.h)
            depth = np.float32(1.0) / np.maximum(gy - top + 0.12, 1e-3)
            check = (np.floor((gx - 0.5) * depth * 0.9 + 40) + np.floor(depth * 0.7)) % 2
            self.blend(check.astype(np.float32) * 0.5, self.colour(1, 0.4), top)
        self.canvas.paint(self.box(0, top - 0.018, 1, top + 0.012), self.colour(0, 0.65), alpha=0.9)
        if u[2] < 0.55:
            rug = self.colour(1, 0.35 if u[3] < 0.5 else -0.35)
            y = min(0.95, top + 0.22)
            x = 0.3 + 0.4 * u[4]
            for k, shade in enumerate((rug, self.colour(2, 0.4), rug)):
                self.canvas.paint(self.disc(x, y, 0.46 - 0.07 * k, 0.36), shade, light=0.1)
