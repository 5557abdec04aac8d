"""The checks of notebook 11 tell a stub, a right answer and each usual mistake apart."""

import numpy as np
import pytest
import torch
from course import checks
from course.checks.photo import ORANGE, dated
from scipy import ndimage
from torch.nn import functional as F

import pconv


@pytest.mark.parametrize("check", [checks.grown_holes, checks.stamp_holes, checks.filled_around])
@pytest.mark.parametrize("stub", [lambda *a: ..., lambda *a: None])
def test_notebook_11_stubs(check_output, check, stub):
    assert check_output(check, stub).endswith(": not attempted yet")


def disc(holes, pixels):
    return ndimage.distance_transform_edt(~holes) <= pixels if holes.any() else holes


def pooled(holes, pixels, window=None):
    window = 2 * pixels + 1 if window is None else window
    return (
        F.max_pool2d(torch.from_numpy(holes)[None].float(), window, 1, window // 2)[0].numpy() > 0
    )


def diamond(holes, pixels):
    return ndimage.binary_dilation(holes, iterations=pixels) if pixels else holes


def rolled(holes, pixels):
    moves = [(i, j) for i in range(-pixels, pixels + 1) for j in range(-pixels, pixels + 1)]
    return np.any([np.roll(holes, move, (0, 1)) for move in moves], axis=0)


@pytest.mark.parametrize("right", [disc, pooled, diamond])
def test_grown_holes_right(check_output, right):
    assert "Exercise 1: right." in check_output(checks.grown_holes, right)


@pytest.mark.parametrize(
    "answer, hint",
    [
        (lambda h, n: ~disc(~h, n), "the holes shrink"),
        (lambda h, n: h, "grow by 1 pixel or less"),
        (lambda h, n: ndimage.binary_dilation(h), "grow by 1 pixel or less"),
        (rolled, "np.roll goes round"),
        (
            lambda h, n: ndimage.binary_dilation(h, iterations=n),
            "With pixels=0 a pixel",
        ),  # 0 iterations: no end
        (lambda h, n: disc(h, 2 * n), "too far"),
        (lambda h, n: ndimage.distance_transform_edt(h) <= n, "outside, of ~holes"),
        (lambda h, n: pooled(h, n, window=n + 2), "2n + 1 wide"),
        (
            lambda h, n: disc(h, n).astype(np.uint8),
            "uint8 (24, 32); expected a bool array (24, 32)",
        ),
        (lambda h, n: disc(h, n)[1:], "bool (23, 32)"),
        (lambda h, n: disc(h, n).tolist(), "The result is list"),
    ],
)
def test_grown_holes_wrong(check_output, answer, hint):
    text = check_output(checks.grown_holes, answer)
    assert text.startswith("Exercise 1: not right yet.") and hint in text


def stamp(photo, color, tolerance=60, rim=2, distance=lambda d: d.max(2)):
    return disc(distance(np.abs(photo.astype(int) - color)) < tolerance, rim)


def test_the_date_stands_in_a_corner():
    photo = pconv.bundled_photos()["chelsea"]
    changed = np.abs(dated(photo).astype(int) - dated(photo, "")).max(2) > 40
    rows, columns = np.nonzero(changed)
    assert 0.002 < changed.mean() < 0.02 and rows.min() > 240 and columns.min() > 280
    middle = dated(photo)[changed & stamp(dated(photo), ORANGE, rim=0)].mean(0)
    assert np.abs(middle - ORANGE).max() < 45


@pytest.mark.parametrize(
    "right",
    [
        stamp,
        lambda p, c: stamp(p, c, 75, 2, lambda d: (d**2).sum(2) ** 0.5),  # Euclidean
        lambda p, c: stamp(p, c, 45, 3),
        lambda p, c: ndimage.binary_dilation(stamp(p, c, rim=0), iterations=2),
    ],
)
def test_stamp_holes_right(check_output, right):
    assert "Exercise 2: right." in check_output(checks.stamp_holes, right)


@pytest.mark.parametrize(
    "answer, hint",
    [
        (lambda p, c: ~stamp(p, c), "It is inverted"),
        (lambda p, c: np.zeros(p.shape[:2], bool), "has no hole"),
        (lambda p, c: stamp(p, ORANGE), "is `color` the one"),
        (lambda p, c: (p == c).all(2), "allow a tolerance"),
        (lambda p, c: (p - np.uint8(c)).max(2) < 60, "255 in uint8"),
        (lambda p, c: stamp(p, c, distance=lambda d: d[:, :, 0]), "Another green"),
        (lambda p, c: stamp(p, c, distance=lambda d: d[:, :, 1]), "Another red"),
        (lambda p, c: stamp(p, c, distance=lambda d: d[:, :, :2].max(2)), "Another blue"),
        (lambda p, c: stamp(p, c, rim=0), "of what the stamp changed is left"),
        (lambda p, c: stamp(p, c, tolerance=25), "of what the stamp changed is left"),
        (lambda p, c: stamp(p, c, tolerance=85), "as much as the stamp is painted beside it"),
        (lambda p, c: stamp(p, c)[:, :, None], "expected a bool array (20, 20)"),
        (lambda p, c: stamp(p, c) * 255, "The result is int64"),
    ],
)
def test_stamp_holes_wrong(check_output, answer, hint):
    text = check_output(checks.stamp_holes, answer)
    assert text.startswith("Exercise 2: not right yet.") and hint in text


def one_box(model, photo, holes, margin=24, end=1, floor=0, empty=True):
    if empty and not holes.any():
        return photo.copy()
    rows, columns = np.nonzero(holes)
    box = tuple(
        slice(max(floor, i.min() - margin), i.max() + end + margin) for i in (rows, columns)
    )
    result = photo.copy()
    result[box] = pconv.inpaint(model, photo[box], holes[box])
    return result


def boxes(model, photo, holes):
    result, (labels, count) = photo.copy(), ndimage.label(holes)
    for number in range(1, count + 1):
        part = labels == number
        rows, columns = np.nonzero(part)
        box = tuple(slice(max(0, i.min() - 24), i.max() + 25) for i in (rows, columns))
        fill = pconv.inpaint(model, photo[box], holes[box])  # of all holes in the box
        result[box] = np.where(part[box][:, :, None], fill, result[box])
    return result


def leaking(model, photo, holes):
    """As boxes; but what another hole in the box holds is taken for a photo."""
    result, (labels, count) = photo.copy(), ndimage.label(holes)
    for number in range(1, count + 1):
        part = labels == number
        result = np.where(part[:, :, None], one_box(model, photo, part), result)
    return result


def altered(model, photo, holes):
    photo[:] = one_box(model, photo, holes)
    return photo


def test_filled_around_right(check_output):
    assert "can each have a box of its own?" in check_output(checks.filled_around, one_box)
    assert "each has its own box" in check_output(checks.filled_around, boxes)


@pytest.mark.parametrize(
    "answer, hint",
    [
        (lambda m, p, h: one_box(m, p, h, floor=-99), "max(0, …)"),
        (
            lambda m, p, h: one_box(m, p, h, margin=0, end=0),
            "nothing to continue. Add a margin; a slice",
        ),
        (lambda m, p, h: one_box(m, p, h, margin=0), "The box holds nothing but hole"),
        (lambda m, p, h: pconv.inpaint(m, p, h), "the model was given 100% of the photo"),
        (lambda m, p, h: np.where(h[:, :, None], np.uint8(7), p), "was given nothing"),
        (lambda m, p, h: p, "was given nothing"),
        (leaking, "another hole in the box is no known pixel"),
        (
            lambda m, p, h: np.zeros_like(p) if not h.any() else one_box(m, p, h),
            "does not come back as it was",
        ),
        (lambda m, p, h: one_box(m, p, h, empty=False), "without a hole ends in ValueError"),
        (altered, "work on a copy"),
        (lambda m, p, h: one_box(m, p, h) // 2 * 2, "A pixel outside the holes is changed"),
        (lambda m, p, h: one_box(m, p, h)[:90, :90], "Return the whole photo"),
        (lambda m, p, h: one_box(m, p, h) / 255, "Return the whole photo"),
    ],
)
def test_filled_around_wrong(check_output, answer, hint):
    text = check_output(checks.filled_around, answer)
    assert text.startswith("Exercise 3: not right yet.") and hint in text
