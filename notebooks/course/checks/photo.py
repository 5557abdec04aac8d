"""Checks of notebook 11.

Growing holes, finding a date stamp by its color, filling a large photo around its holes.
"""

from collections.abc import Callable
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scipy.ndimage import distance_transform_cdt
from skimage.data import chelsea
from torch import Tensor

import pconv
from course.checks.exercise import WrongError, exercise, require_answer

ORANGE = (255, 140, 40)


def dated(photo: np.ndarray, text: str = "'98  7 14") -> np.ndarray:
    """uint8 (H, W, 3) as an old camera leaves it: an orange date with soft edges.

    All of it has been saved as JPEG.
    """
    height, width = photo.shape[:2]
    ink = Image.new("L", (width, height))
    font = ImageFont.load_default(size=height / 9)
    ImageDraw.Draw(ink).text((0.94 * width, 0.93 * height), text, fill=255, font=font, anchor="rs")
    image, file = Image.fromarray(photo), BytesIO()
    image.paste(ORANGE, mask=ink.filter(ImageFilter.GaussianBlur(0.7)))
    image.save(file, "jpeg", quality=90)
    return np.array(Image.open(file))


def _holes(actual, shape: tuple[int, int]) -> np.ndarray:
    """What a learner's function returned, where it can be a mask of holes."""
    actual = require_answer(actual)
    if not isinstance(actual, np.ndarray) or actual.dtype != bool or actual.shape != shape:
        what = (
            f"{actual.dtype} {actual.shape}"
            if isinstance(actual, np.ndarray)
            else type(actual).__name__
        )
        raise WrongError(f"The result is {what}; expected a bool array {shape}, True = hole.")
    return actual


@exercise("Exercise 1")
def grown_holes(answer: Callable[[np.ndarray, int], np.ndarray]) -> str:
    """answer(holes, pixels): the holes, so many pixels larger on every side."""
    holes = np.zeros((24, 32), bool)
    holes[9:13, 10:12] = holes[0, 20:23] = True
    square, diamond = (
        distance_transform_cdt(~holes, metric) for metric in ("chessboard", "taxicab")
    )
    for pixels in (3, 1, 0):  # a disc and all else between a diamond and a square are right
        actual, case = _holes(answer(holes.copy(), pixels), holes.shape), f"With pixels={pixels}"
        if (actual < holes).any():
            raise WrongError(f"{case} the holes shrink. It is the True pixels that grow.")
        if pixels == 3 and actual[square > 5].all():
            raise WrongError(
                f"{case} all that is far from a hole becomes one: measure the distance outside, "
                "of ~holes."
            )
        if pixels == 3 and (actual <= (square <= 1)).all():
            raise WrongError(
                f"{case} the holes grow by 1 pixel or less: repeat it, or use a wider window."
            )
        if pixels == 3 and actual[-3:, 20:23].any():
            raise WrongError(
                "A hole at the upper border comes out at the lower one: np.roll goes round."
            )
        if (actual > (square <= pixels)).any():
            raise WrongError(
                f"{case} a pixel {square[actual].max()} from the next hole has become a hole: too "
                "far."
            )
        if (actual < (diamond <= pixels)).any():
            near = f"{case} a pixel {diamond[~actual].min()} from the next hole is none."
            raise WrongError(f"{near} A window that reaches n pixels to each side is 2n + 1 wide.")
    return "Every hole is larger by as many pixels as asked for, also at the border."


@exercise("Exercise 2")
def stamp_holes(answer: Callable[[np.ndarray, tuple], np.ndarray]) -> str:
    """answer(photo, color): where the photo bears a stamp of this color."""
    color = np.array((120, 60, 200))

    def found(*change: int) -> bool:
        plain = np.full((20, 20, 3), color + change, np.uint8)
        return _holes(answer(plain, tuple(color.tolist())), (20, 20)).mean() > 0.5

    exact, darker, brighter = found(0, 0, 0), found(-6, -6, -6), found(6, 6, 6)
    if found(-90, 90, -120) and not exact:
        raise WrongError("It is inverted: True = hole, where the color is the stamp's.")
    if not exact:
        raise WrongError(
            "A photo all of this color has no hole: is `color` the one that is looked for?"
        )
    if not (darker or brighter):
        raise WrongError(
            "A color 6 levels off is not found. JPEG and soft edges change it by more: allow a "
            "tolerance."
        )
    if not (darker and brighter):
        raise WrongError(
            "Darker and brighter are not treated alike. 5 - 6 is 255 in uint8: make it int first."
        )
    for name, change in (("red", (130, 0, 0)), ("green", (0, 150, 0)), ("blue", (0, 0, -160))):
        if found(*change):
            raise WrongError(
                f"Another {name} is taken for the stamp: compare all three channels, or tolerate "
                "less."
            )
    photo = chelsea()
    stamped, clean = dated(photo), dated(photo, "")
    changed = np.abs(stamped.astype(int) - clean).max(2) > 40
    holes = _holes(answer(stamped.copy(), ORANGE), changed.shape)
    missed = (changed & ~holes).sum() / changed.sum()
    extra = (holes & ~changed).sum() / changed.sum()
    if missed > 0.03:
        raise WrongError(
            f"{missed:.0%} of what the stamp changed is left: a larger tolerance, or larger holes."
        )
    if extra > 7:
        raise WrongError(
            f"{extra:.1f} times as much as the stamp is painted beside it: a smaller tolerance."
        )
    return (
        f"The stamp is covered, with its soft edges; {extra:.1f} times as much is painted beside "
        "it."
    )


class _Watched(pconv.PConvUNet):
    """Interpolates, as an untrained residual network does, and counts the pixels it is given."""

    pixels = 0

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        self.pixels += mask.numel()
        return super().forward(image, mask)


@exercise("Exercise 3")
def filled_around(answer: Callable[[pconv.PConvUNet, np.ndarray, np.ndarray], np.ndarray]) -> str:
    """answer(model, photo, holes): as pconv.inpaint.

    But the model sees only the surroundings of the holes.
    """
    model, seen = _Watched(widths=(2,) * 5, residual=True), []
    one = np.zeros((300, 451), bool)
    one[3:13, 4:40] = True  # a margin would begin outside the photo
    two = one.copy()
    two[250:260, 410:449] = True
    near = one.copy()
    near[15:25, 4:40] = True  # in the box of the other
    for holes in (one, two, near):
        photo = np.where(holes[:, :, None], np.uint8((255, 0, 255)), chelsea())
        expected, before, model.pixels = pconv.inpaint(model, photo, holes), photo.copy(), 0
        try:
            actual = require_answer(answer(model, photo, holes.copy()))
        except ValueError as error:
            if "nothing to continue" in str(error):
                raise WrongError(
                    "The box holds nothing but hole, so there is nothing to continue. Add a "
                    "margin; a slice stops before its end, and rows come before columns."
                ) from None
            raise WrongError(
                f"{error}. Rows come before columns. Does a slice begin below 0? That counts from "
                "the end: max(0, …)."
            ) from None
        if (
            not isinstance(actual, np.ndarray)
            or actual.shape != photo.shape
            or actual.dtype != np.uint8
        ):
            raise WrongError(f"Return the whole photo, a uint8 array {photo.shape}.")
        if (photo != before).any():
            raise WrongError("The photo that was given is changed: work on a copy.")
        if (actual != photo)[~holes].any():
            raise WrongError("A pixel outside the holes is changed.")
        if not model.pixels:
            raise WrongError("The model was given nothing: call pconv.inpaint on what you cut out.")
        if left := (actual == (255, 0, 255)).all(2)[holes].mean():
            raise WrongError(
                f"{left:.0%} of the hole pixels are not filled. Rows before columns; a slice ends "
                "before its end."
            )
        seen.append(model.pixels / holes.size)
        if seen[0] > 0.5:
            raise WrongError(
                f"For a small hole the model was given {seen[0]:.0%} of the photo: cut it out "
                "first."
            )
        if (off := np.abs(actual.astype(int) - expected)[holes].mean()) > 8:
            why = (
                "another hole in the box is no known pixel"
                if holes is near
                else "the model needs a margin"
            )
            raise WrongError(f"The fill is {off:.0f} levels off that of the whole photo: {why}.")
    if not np.array_equal(_without_holes(answer, model), chelsea()):
        raise WrongError("A photo without a hole does not come back as it was.")
    more = "each has its own box." if seen[1] < 0.4 else "can each have a box of its own?"
    return (
        f"Of a photo with one hole the model saw {seen[0]:.0%}, with two far apart {seen[1]:.0%}: "
        f"{more}"
    )


def _without_holes(answer: Callable, model: pconv.PConvUNet) -> np.ndarray:
    try:
        return answer(model, chelsea(), np.zeros((300, 451), bool))
    except (ValueError, IndexError) as error:
        raise WrongError(
            f"A photo without a hole ends in {type(error).__name__}: {error}."
        ) from None
