"""Draws the title picture of notebook 11.

python notebooks/course/before_after.py notebooks/images/11_inpaint_your_photo.jpg
"""

import sys

import numpy as np
from PIL import Image, ImageDraw

import pconv

PAINT = (150, 18, 60)  # as plots.HOLE
SCRIBBLES = {  # photo: (lines of (x, y) points, brush), in pixels of 512x342
    "chelsea": (
        [
            [(60, 60), (200, 140), (330, 70), (450, 160)],
            [(60, 280), (180, 200), (300, 290), (460, 230)],
            [(150, 30), (120, 310)],
        ],
        8,
    ),
    "rocket": ([[(257, 90), (257, 322)]], 24),
}


def before_after(photo: np.ndarray, lines: list, brush: int) -> np.ndarray:
    """The photo with its holes painted, and beside it the filled one: uint8 (H, 2 * W + 8, 3)."""
    sheet = Image.new("L", photo.shape[1::-1])
    for points in lines:
        ImageDraw.Draw(sheet).line(points, fill=255, width=brush, joint="curve")
    holes = np.array(sheet) > 0
    painted = np.where(holes[:, :, None], np.uint8(PAINT), photo)
    gap = np.full_like(photo[:, :8], 255)
    return np.concatenate([painted, gap, pconv.inpaint(pconv.load_pretrained(), photo, holes)], 1)


if __name__ == "__main__":
    rows = []
    for name, (lines, brush) in SCRIBBLES.items():
        photo = Image.fromarray(pconv.bundled_photos()[name])
        photo = np.array(photo.resize((512, 342), Image.Resampling.LANCZOS))
        rows += [before_after(photo, lines, brush)]
        rows += [np.full_like(rows[0][:8], 255)]
    picture = Image.fromarray(np.concatenate(rows[:-1]))
    picture.thumbnail((900, 900), Image.Resampling.LANCZOS)
    picture.save(sys.argv[1], quality=85)
