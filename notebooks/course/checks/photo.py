"""Checks of notebook 11.

Growing holes, finding a date stamp by its color, choosing a method without knowing the truth.
"""

from collections.abc import Callable
from io import BytesIO

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from scipy.ndimage import distance_transform_cdt
from skimage.data import chelsea

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
        if pixels == 0 and actual.all():
            raise WrongError(
                f"{case} all of the photo becomes a hole. SciPy's binary_dilation takes "
                "iterations=0 as: repeat until nothing changes. Return the holes as they are."
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
    changed = np.abs(stamped.astype(int) - clean).max(2) > 12  # what can be seen of the stamp
    holes = _holes(answer(stamped.copy(), ORANGE), changed.shape)
    missed = (changed & ~holes).sum() / changed.sum()
    extra = (holes & ~changed).sum() / changed.sum()
    if missed > 0.01:
        raise WrongError(
            f"{missed:.1%} of what the stamp changed is left, and a fill continues it: a ghost of "
            "the date stays. A larger tolerance, or holes that grow more; at most 1% may be left."
        )
    if extra > 5:
        raise WrongError(
            f"{extra:.1f} times as much as the stamp is painted beside it: a smaller tolerance, or "
            "holes that grow less."
        )
    return (
        f"The stamp is covered, with its soft edges and the colors that JPEG has smeared; "
        f"{extra:.1f} times as much is painted beside it."
    )


class _Method:
    """A method to fill with whose quality is known: it knows the photo, and watches its calls."""

    def __init__(self, truth: np.ndarray, holes: np.ndarray, error: int | None):
        self.truth, self.holes, self.error = truth, holes, error  # None: gives back what it gets
        self.calls = []  # (what lay under the holes it was given, the holes)

    def __call__(self, photo: np.ndarray, holes: np.ndarray) -> np.ndarray:
        for name, array, shape, dtype in (
            ("photo", photo, self.truth.shape, np.uint8),
            ("holes", holes, self.holes.shape, bool),
        ):
            if not isinstance(array, np.ndarray) or (array.shape, array.dtype) != (shape, dtype):
                got = f"{getattr(array, 'dtype', type(array).__name__)} {np.shape(array)}"
                expected = f"{np.dtype(dtype)} {shape}"
                raise WrongError(f"A method was given {name} of {got}; expected {expected}.")
        self.calls.append((photo.copy(), holes.copy()))
        if self.error is None:
            return photo.copy()
        rows, columns = np.indices(holes.shape)
        sign = np.where((rows + columns) % 2, 1, -1)[:, :, None]
        wrong = np.clip(self.truth + self.error * sign, 0, 255).astype(np.uint8)
        return np.where(holes[:, :, None], wrong, photo)


@exercise("Exercise 3")
def chosen_method(answer: Callable[[dict, np.ndarray, np.ndarray], str]) -> str:
    """answer(methods, photo, holes): the name of the method that fills this photo best.

    methods: {name: function (photo, holes) -> filled photo}. One of them is better than the other,
    and a third gives the photo back as it gets it.
    """
    truth = chelsea()[60:200, 120:330]
    holes = np.zeros(truth.shape[:2], bool)
    holes[30:60, 40:90] = holes[100:104, 150:200] = True
    photo = np.where(holes[:, :, None], np.uint8((255, 0, 255)), truth)
    for names in (("close", "far", "nothing"), ("nothing", "far", "close"), ("far", "close")):
        errors = {"close": 3, "far": 16, "nothing": None}
        methods = {name: _Method(truth, holes, errors[name]) for name in names}
        given = photo.copy()
        choice = require_answer(answer(dict(methods), given, holes.copy()))
        if (given != photo).any():
            raise WrongError("The photo that was given is changed: work on a copy.")
        if not isinstance(choice, str) or choice not in methods:
            kind = type(choice).__name__
            raise WrongError(f"The answer is {choice!r:.40}, a {kind}; return a key of `methods`.")
        _examine_calls(methods, holes, truth)
        if choice == "nothing":
            under = [(p == truth)[h & ~holes].all() for p, h in methods["nothing"].calls]
            raise WrongError(
                "It chose a method that gives the photo back unchanged. "
                + (
                    "What you compare with still lay under your holes: erase it before a method "
                    "gets the photo."
                    if any(under)
                    else "Compare in your own holes only: in the real ones nothing is known. And "
                    "subtract as int: uint8 has no negative numbers."
                )
            )
        if choice == "far":
            raise WrongError(
                "It chose the method with the larger error. Take the smallest error, or the "
                "largest PSNR; compare in your own holes only; and uint8 has no negative "
                "numbers: subtract as int."
            )
    return "It finds the better method from what is known alone."


def _examine_calls(methods: dict[str, _Method], holes: np.ndarray, truth: np.ndarray) -> None:
    """Raises WrongError unless all methods filled the same new holes, and the real ones too."""
    if any(not method.calls for method in methods.values()):
        raise WrongError("Not every method was called: let each fill holes that you made yourself.")
    for method in methods.values():
        for _, used in method.calls:
            if (holes & ~used).any():
                raise WrongError(
                    "The real holes are not among those that a method was given: it takes the "
                    "magenta there for a photo. Use holes | yours."
                )
            if (own := (used & ~holes).sum()) < holes.sum() / 4:
                raise WrongError(
                    f"A method filled {own} pixels beside the real holes: too few to compare. In "
                    "the real holes nobody knows what was there, so make some where you do."
                )
            if used.all():
                raise WrongError("All of the photo is a hole: leave something to continue.")
    first, *others = ([used for _, used in method.calls] for method in methods.values())
    if any(len(o) != len(first) or not np.array_equal(o, first) for o in others):
        raise WrongError("The methods filled different holes: make yours once, for all of them.")
