"""Hole masks, bool (H, W), True = hole, drawn at random; the buckets of hole ratios."""

import math

import numpy as np
from PIL import Image, ImageDraw

# Hole ratios in (low, high], as in arXiv 1804.07723, Section 4.1.
BUCKETS = ((0.01, 0.1), (0.1, 0.2), (0.2, 0.3), (0.3, 0.4), (0.4, 0.5), (0.5, 0.6))


def random_holes(
    height: int,
    width: int,
    ratio: tuple[float, float] = (0.01, 0.6),
    rng: np.random.Generator | None = None,
    border: bool | None = None,
) -> np.ndarray:
    """Irregular holes, strokes and blobs, in the manner of arXiv 1804.07723, Section 4.1.

    Args:
        height, width: in pixels.
        ratio: (lo, hi); the hole ratio is uniform in (lo, hi].
        rng: where the random numbers come from.
        border: True: the holes touch the border; False: they keep a margin to it; None: either.

    Returns:
        bool (height, width), True = hole.

    Raises:
        ValueError: if no whole number of pixels lies in the range.
    """
    if rng is None:
        rng = np.random.default_rng()
    low, high = ratio
    if not 0 <= low < high <= 1:
        raise ValueError(f"ratio=({low}, {high}): expected 0 <= lo < hi <= 1")
    # The tolerance is for bounds such as 0.1, which no binary fraction equals: 0.1 of 10 is 1.
    fewest = math.floor(low * height * width + 1e-9) + 1
    most = math.floor(high * height * width + 1e-9)
    margin = 0
    if border is False:
        margin = _choose_margin(height, width, most)
        most = min(most, max(0, height - 2 * margin) * max(0, width - 2 * margin))
    if fewest > most:
        where = f"in {height}x{width} pixels" + (" that keeps off the border" if margin else "")
        raise ValueError(
            f"no hole of a ratio in ({low}, {high}] {where}: widen the range or enlarge the mask"
        )
    count = int(rng.integers(fewest, most, endpoint=True))
    holes = np.zeros((height, width), dtype=bool)
    inside = holes[margin : height - margin, margin : width - margin]
    inside[:] = _draw_holes(*inside.shape, count, border is True, rng)
    return holes


def mixed_holes(
    height: int, width: int, ratio: tuple[float, float], rng: np.random.Generator
) -> np.ndarray:
    """Holes of many kinds, for training: what people paint over is wider than `random_holes`.

    Half are thick strokes or boxes, as in LaMa (Suvorov et al., WACV 2022, arXiv 2109.07161,
    Section 2.4), a third are `random_holes`, a sixth have the outline of an object. Arguments and
    result are those of `random_holes`; where no drawing has such a ratio, so are the holes.
    """
    kind = rng.random()
    for _ in range(20 if kind >= 1 / 3 else 0):
        canvas = Image.new("1", (width, height))
        draw = ImageDraw.Draw(canvas)
        if kind < 2 / 3:
            _draw_thick_strokes(draw, height, width, rng)
        elif kind < 5 / 6:
            _draw_boxes(draw, height, width, rng)
        else:
            _draw_outline(draw, height, width, rng)
        holes = np.array(canvas)
        if ratio[0] < holes.mean() <= ratio[1]:
            return holes
    return random_holes(height, width, ratio, rng)


def _draw_thick_strokes(draw: ImageDraw.ImageDraw, height: int, width: int, rng) -> None:
    """Up to five strokes, each of up to five straight pieces, wide as 6 to 25 % of the photo."""
    extent = math.sqrt(height * width)
    for _ in range(rng.integers(1, 6)):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        angle = rng.uniform(0, 2 * math.pi)
        radius = rng.uniform(0.03, 0.125) * extent
        for _ in range(rng.integers(1, 6)):
            angle += rng.normal(0, 0.9)
            length = rng.uniform(0.05, 0.4) * extent
            end = x + length * math.cos(angle), y + length * math.sin(angle)
            draw.line((x, y, *end), fill=1, width=max(1, round(2 * radius)))
            x, y = end
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)


def _draw_boxes(draw: ImageDraw.ImageDraw, height: int, width: int, rng) -> None:
    """Up to four boxes, each side 10 to 50 % of the photo's."""
    for _ in range(rng.integers(1, 5)):
        left, top = rng.uniform(-0.1, 0.9) * width, rng.uniform(-0.1, 0.9) * height
        right, bottom = rng.uniform(0.1, 0.5) * width, rng.uniform(0.1, 0.5) * height
        draw.rectangle((left, top, left + right, top + bottom), fill=1)


def _draw_outline(draw: ImageDraw.ImageDraw, height: int, width: int, rng) -> None:
    """One polygon around a center, with 6 to 13 corners."""
    corners = rng.integers(6, 14)
    angles = np.sort(rng.uniform(0, 2 * math.pi, corners))
    size = rng.uniform(0.12, 0.35) * rng.uniform(0.6, 1.3, corners)
    x = (rng.uniform(0.2, 0.8) + size * np.cos(angles)) * width
    y = (rng.uniform(0.2, 0.8) + size * np.sin(angles)) * height
    draw.polygon(list(zip(x.tolist(), y.tolist(), strict=True)), fill=1)


HOLE_KINDS = {"irregular": random_holes, "mixed": mixed_holes}


def _choose_margin(height: int, width: int, most: int) -> int:
    """In pixels: a twentieth of the shorter side, or what `most` hole pixels leave; at least 1."""
    for margin in range(max(1, min(height, width) // 20), 0, -1):
        if (height - 2 * margin) * (width - 2 * margin) >= 1.2 * most:
            return margin
    return 1


def _draw_holes(height: int, width: int, count: int, at_border: bool, rng) -> np.ndarray:
    """Exactly `count` hole pixels, the first stroke from the border if `at_border`."""
    canvas = Image.new("L", (width, height))
    drawn = 0
    while drawn < count:
        before = canvas.copy()
        start = _draw_stroke(canvas, count - drawn, at_border and drawn == 0, rng)
        drawn = np.count_nonzero(np.asarray(canvas))
    holes = np.asarray(canvas) > 0
    excess = drawn - count
    if excess > 0:  # the last stroke ends where it has drawn enough, counted from its start
        rows, columns = np.nonzero(holes & (np.asarray(before) == 0))
        distance = (rows - start[1]) ** 2 + (columns - start[0]) ** 2
        farthest = np.argpartition(distance, len(rows) - excess)[len(rows) - excess :]
        holes[rows[farthest], columns[farthest]] = False
    return holes


def _draw_stroke(canvas: Image.Image, missing: int, at_border: bool, rng) -> tuple[int, int]:
    """Draws one stroke of a brush or one blob.

    Returns the (column, row) where it starts, a pixel that it has drawn.
    """
    width, height = canvas.size
    column = int(rng.integers(width))
    row = int(rng.integers(height))
    if at_border:
        edges = ((column, 0), (column, height - 1), (0, row), (width - 1, row))
        column, row = edges[rng.integers(4)]
    draw = ImageDraw.Draw(canvas)
    extent = math.sqrt(height * width)
    largest = math.sqrt(missing)  # wide strokes while much is missing, fine ones towards the end
    brush = (0.6 * extent + 1.8 * largest) * rng.uniform(0.02, 0.12)
    brush = max(1.0, min(brush, largest))
    if rng.random() < 0.25:
        a, b = brush * rng.uniform(0.7, 2.0, 2)
        draw.ellipse((column - a, row - b, column + a, row + b), fill=255)
    else:
        corners = rng.integers(2, 9)
        angles = rng.uniform(0, 2 * math.pi) + rng.normal(0, 0.7, corners).cumsum()
        lengths = extent * rng.uniform(0.03, 0.2, corners)
        steps = np.stack((lengths * np.cos(angles), lengths * np.sin(angles)), 1).cumsum(0)
        points = [(column, row), *((column + x, row + y) for x, y in steps.tolist())]
        draw.line(points, fill=255, width=round(brush))
        radius = brush / 2
        for x, y in points:  # round ends and corners
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    draw.point((column, row), fill=255)
    return column, row
