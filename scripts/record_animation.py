"""Draws the README's animation: a stroke over a rocket, and what the shipped weights put there.

python scripts/record_animation.py --out data/paint_and_fill.webp

The fill is `pconv.inpaint`'s, as the painter would show it.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import pconv

# Points (x, y) and the brush, in pixels of the photo.
STROKE = [(321, 95), (321, 392)]
BRUSH = 40
PAINT = (240, 168, 48)
STEPS = 12  # pictures of the stroke
MOVING, WAITING = 90, 1400  # milliseconds per picture


def paint(shape: tuple[int, int], share: float) -> np.ndarray:
    """bool (H, W): the first `share` of the stroke, drawn with a round brush."""
    start, end = np.array(STROKE)
    here = start + share * (end - start)
    sheet = Image.new("L", shape[::-1])
    draw = ImageDraw.Draw(sheet)
    draw.line([*start, *here], fill=255, width=BRUSH)
    for point in (start, here):
        draw.ellipse([*(point - BRUSH / 2), *(point + BRUSH / 2)], fill=255)
    return np.array(sheet) > 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("data/paint_and_fill.webp"))
    parser.add_argument("--width", type=int, default=480, help="of the animation, in pixels")
    options = parser.parse_args()
    photo = pconv.bundled_photos()["rocket"]
    model = pconv.load_pretrained()
    pictures, durations = [photo], [WAITING]
    for step in range(1, STEPS + 1):
        holes = paint(photo.shape[:2], step / STEPS)
        picture = photo.copy()
        picture[holes] = np.rint(0.3 * photo[holes] + 0.7 * np.array(PAINT))
        pictures.append(picture)
        durations.append(MOVING)
    pictures.append(pconv.inpaint(model, photo, holes))
    durations.append(2 * WAITING)
    height = round(options.width * photo.shape[0] / photo.shape[1])
    frames = [
        Image.fromarray(picture).resize((options.width, height), Image.Resampling.LANCZOS)
        for picture in pictures
    ]
    frames[0].save(
        options.out,
        save_all=True,
        append_images=frames[1:],
        duration=durations,
        loop=0,
        quality=85,
        method=6,
    )
    print(f"{options.out}: {len(frames)} pictures, {options.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
