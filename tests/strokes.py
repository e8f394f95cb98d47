"""Ten digits in three handwriting styles: strokes of points in a unit square, y downwards.

They follow common handwriting and were fixed before the model first predicted them.
"""

import math
from itertools import pairwise

Point = tuple[float, float]
Stroke = list[Point]

STEP = 0.08  # between two points of a line
SMALL = 0.3


def line(*corners: Point) -> Stroke:
    """Return a polyline through the corners."""
    points = [corners[0]]
    for (x, y), (next_x, next_y) in pairwise(corners):
        steps = max(1, round(math.hypot(next_x - x, next_y - y) / STEP))
        points += [(x + (next_x - x) * step / steps, y + (next_y - y) * step / steps) for step in range(1, steps + 1)]
    return points


def arc(x: float, y: float, width: float, height: float, start: float, end: float) -> Stroke:
    """Return an arc of the ellipse with these radii around (x, y); degrees, clockwise from the right."""
    steps = max(2, round(abs(end - start) / 18))
    angles = [math.radians(start + (end - start) * step / steps) for step in range(steps + 1)]
    return [(x + width * math.cos(angle), y + height * math.sin(angle)) for angle in angles]


STYLES: dict[int, list[list[Stroke]]] = {
    0: [
        [arc(0.5, 0.5, 0.28, 0.42, -90, -450)],  # round, from the top, to the left
        [arc(0.5, 0.5, 0.2, 0.45, -60, 300)],  # narrow, clockwise
        [arc(0.5, 0.5, 0.35, 0.38, -100, -440) + line((0.45, 0.13), (0.56, 0.14))],  # wide, closed with an overlap
    ],
    1: [
        [line((0.5, 0.05), (0.5, 0.95))],  # a bar
        [line((0.32, 0.3), (0.54, 0.06), (0.52, 0.95))],  # with an upstroke
        [line((0.6, 0.05), (0.42, 0.95))],  # slanted
    ],
    2: [
        [arc(0.48, 0.3, 0.26, 0.24, -170, 30) + line((0.7, 0.42), (0.2, 0.93), (0.82, 0.93))],  # angular foot
        [
            arc(0.5, 0.28, 0.24, 0.22, -180, 45)
            + line((0.66, 0.45), (0.25, 0.85))
            + arc(0.3, 0.84, 0.08, 0.08, 90, 270)
            + line((0.33, 0.78), (0.8, 0.92))
        ],  # with a loop at the foot
        [arc(0.5, 0.3, 0.3, 0.22, -160, 60) + line((0.62, 0.5), (0.15, 0.92)) + arc(0.5, 0.98, 0.36, 0.1, 200, 340)],
    ],
    3: [
        [arc(0.45, 0.28, 0.27, 0.22, -150, 80) + arc(0.45, 0.71, 0.3, 0.23, -80, 150)],  # two bows
        [line((0.2, 0.08), (0.75, 0.08), (0.45, 0.42)) + arc(0.42, 0.68, 0.3, 0.26, -85, 150)],  # flat top
        [
            arc(0.48, 0.27, 0.2, 0.2, -160, 100)
            + line((0.44, 0.48), (0.36, 0.48), (0.46, 0.49))
            + arc(0.46, 0.72, 0.27, 0.23, -90, 165)
        ],  # with a knot
    ],
    4: [
        [line((0.3, 0.06), (0.2, 0.55), (0.8, 0.55)), line((0.66, 0.3), (0.62, 0.95))],  # open, two strokes
        [line((0.62, 0.95), (0.62, 0.05), (0.15, 0.65), (0.85, 0.65))],  # closed, one stroke
        [line((0.22, 0.08), (0.22, 0.5), (0.72, 0.5)), line((0.72, 0.06), (0.72, 0.95))],  # open, upright
    ],
    5: [
        [line((0.72, 0.08), (0.3, 0.08), (0.27, 0.45)) + arc(0.45, 0.67, 0.28, 0.25, -130, 140)],  # one stroke
        [line((0.3, 0.1), (0.27, 0.45)) + arc(0.46, 0.67, 0.27, 0.26, -125, 145), line((0.3, 0.1), (0.76, 0.08))],
        [
            line((0.75, 0.06), (0.38, 0.08), (0.3, 0.42))
            + arc(0.42, 0.64, 0.3, 0.22, -110, 90)
            + line((0.42, 0.86), (0.18, 0.9))
        ],  # slanted
    ],
    6: [
        [line((0.62, 0.05), (0.4, 0.35)) + arc(0.5, 0.7, 0.25, 0.24, -180, -540)],  # straight back
        [arc(0.7, 0.55, 0.45, 0.5, -100, -190) + arc(0.5, 0.72, 0.25, 0.22, -180, 180)],  # bowed back
        [arc(0.72, 0.6, 0.5, 0.52, -75, -195) + arc(0.46, 0.72, 0.22, 0.2, 160, -160)],  # loop the other way
    ],
    7: [
        [line((0.2, 0.1), (0.8, 0.1), (0.42, 0.95))],  # plain
        [line((0.2, 0.1), (0.8, 0.1), (0.45, 0.95)), line((0.35, 0.52), (0.78, 0.5))],  # with a bar
        [line((0.2, 0.25), (0.22, 0.12), (0.78, 0.1)) + arc(1.05, 0.75, 0.5, 0.7, -120, -200)],  # with a hook, bowed
    ],
    8: [
        [arc(0.5, 0.28, 0.22, 0.21, 90, 450) + arc(0.5, 0.73, 0.27, 0.24, -90, 270)],  # two rings
        [
            [
                (0.5 + 0.25 * math.sin(2 * t), 0.5 - 0.43 * math.cos(t))
                for t in [math.radians(degrees) for degrees in range(0, 361, 8)]
            ]
        ],  # one crossing stroke
        [
            arc(0.52, 0.3, 0.2, 0.22, -20, -270)
            + arc(0.48, 0.73, 0.24, 0.22, -80, 250)
            + line((0.43, 0.53), (0.71, 0.24))
        ],
    ],
    9: [
        [arc(0.48, 0.32, 0.25, 0.25, 0, -360) + line((0.73, 0.32), (0.68, 0.95))],  # straight stem
        [arc(0.5, 0.3, 0.24, 0.24, -20, -380) + line((0.73, 0.24), (0.72, 0.6)) + arc(0.45, 0.68, 0.27, 0.25, 0, 130)],
        [arc(0.46, 0.3, 0.22, 0.22, -30, -330) + line((0.66, 0.15), (0.66, 0.4), (0.5, 0.95))],  # slanted stem
    ],
}


def scale_strokes(strokes: list[Stroke], left: float, top: float, size: float) -> list[Stroke]:
    """Return the strokes scaled to the square at this corner; small ones have fewer points."""
    step = 1 if size > SMALL else 2
    return [[(left + size * x, top + size * y) for x, y in (*stroke[:-1:step], stroke[-1])] for stroke in strokes]
