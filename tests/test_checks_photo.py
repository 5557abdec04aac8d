"""The checks of notebook 11 tell a stub, a right answer and each usual mistake apart."""

import numpy as np
import pytest
import torch
from course import checks
from course.checks.photo import ORANGE, dated
from scipy import ndimage
from torch.nn import functional as F

import pconv


@pytest.mark.parametrize("check", [checks.grown_holes, checks.stamp_holes, checks.chosen_method])
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
        (lambda h, n: ndimage.binary_dilation(h, iterations=n), "repeat until nothing changes"),
        (lambda h, n: disc(h, 2 * n), "too far"),
        (lambda h, n: ndimage.distance_transform_edt(h) <= n, "outside, of ~holes"),
        (lambda h, n: pooled(h, n, window=n + 2), "2n + 1 wide"),
        (
            lambda h, n: disc(h, n).astype(np.uint8),
            "uint8 (24, 32); expected a bool array (24, 32)",
        ),
        (lambda h, n: disc(h, n)[1:], "bool (23, 32)"),
        (lambda h, n: disc(h, n).tolist(), "The result is list"),
        (lambda h, n: torch.from_numpy(disc(h, n)), "The result is Tensor"),
        (lambda h, n: np.ones_like(h) if n == 0 else disc(h, n), "Return the holes as they are"),
    ],
)
def test_grown_holes_wrong(check_output, answer, hint):
    text = check_output(checks.grown_holes, answer)
    assert text.startswith("Exercise 1: not right yet.") and hint in text


def stamp(photo, color, tolerance=60, rim=4, distance=lambda d: d.max(2)):
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
        lambda p, c: stamp(p, c, 75, 4, lambda d: (d**2).sum(2) ** 0.5),  # Euclidean
        lambda p, c: stamp(p, c, 45, 5),
        lambda p, c: ndimage.binary_dilation(stamp(p, c, rim=0), iterations=5),
        lambda p, c: pooled(stamp(p, c, rim=0), 4),
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
        (lambda p, c: stamp(p, c, rim=2), "a ghost of the date stays"),
        (lambda p, c: stamp(p, c, tolerance=25), "of what the stamp changed is left"),
        (lambda p, c: stamp(p, c, tolerance=85), "as much as the stamp is painted beside it"),
        (lambda p, c: stamp(p, c)[:, :, None], "expected a bool array (20, 20)"),
        (lambda p, c: stamp(p, c) * 255, "The result is int64"),
    ],
)
def test_stamp_holes_wrong(check_output, answer, hint):
    text = check_output(checks.stamp_holes, answer)
    assert text.startswith("Exercise 2: not right yet.") and hint in text


def moved(holes):
    return np.roll(holes, (40, 60), (0, 1)) & ~holes


def errors(methods, photo, holes, own=moved, erase=True, given=np.logical_or, where=None):
    """{name: mean absolute difference}, for right answers and, with other settings, wrong ones."""
    mine = own(holes)
    start = np.where(mine[:, :, None], np.uint8(0), photo) if erase else photo
    fills = {name: fill(start, given(holes, mine)) for name, fill in methods.items()}
    inside = mine if where is None else where(holes, mine)
    return {name: np.abs(fill.astype(int) - photo)[inside].mean() for name, fill in fills.items()}


def smallest(values):
    return min(values, key=values.get)


def by_psnr(methods, photo, holes):
    mine = moved(holes)
    erased = np.where(mine[:, :, None], np.uint8(255), photo)
    psnr = {
        name: pconv.compare(fill(erased, holes | mine), photo, mine)["psnr_holes"]
        for name, fill in methods.items()
    }
    return max(psnr, key=psnr.get)


def one_square(holes):
    square = np.zeros_like(holes)
    square[90:120, 120:160] = True
    return square


def in_uint8(methods, photo, holes):
    mine = moved(holes)
    erased = np.where(mine[:, :, None], np.uint8(0), photo)
    fills = {name: fill(erased, holes | mine) for name, fill in methods.items()}
    return smallest({name: np.abs(fill - photo)[mine].mean() for name, fill in fills.items()})


def written_over(methods, photo, holes):
    photo[moved(holes)] = 0
    return smallest(errors(methods, photo, holes))


def drawn_anew(methods, photo, holes):
    rng, values = np.random.default_rng(0), {}
    for name, fill in methods.items():
        draw = rng.random(holes.shape) < 0.2
        values |= errors({name: fill}, photo, holes, own=lambda h, draw=draw: draw & ~h)
    return smallest(values)


@pytest.mark.parametrize(
    "right",
    [
        lambda m, p, h: smallest(errors(m, p, h)),
        by_psnr,
        lambda m, p, h: smallest(errors(m, p, h, own=one_square)),
        lambda m, p, h: smallest(errors(m, p, h, where=lambda h, mine: ~h)),  # diluted, in order
    ],
)
def test_chosen_method_right(check_output, right):
    assert "Exercise 3: right." in check_output(checks.chosen_method, right)


@pytest.mark.parametrize(
    "answer, hint",
    [
        (lambda m, p, h: "close", "Not every method was called"),
        (lambda m, p, h: next(iter(m)), "Not every method was called"),
        (lambda m, p, h: smallest(errors(m, p, h, erase=False)), "erase it before"),
        (lambda m, p, h: smallest(errors(m, p, h, where=lambda h, mine: h)), "In the real ones"),
        (lambda m, p, h: smallest(errors(m, p, h, own=np.copy)), "make some where you do"),
        (
            lambda m, p, h: smallest(errors(m, p, h, given=lambda h, mine: mine)),
            "Use holes | yours",
        ),
        (lambda m, p, h: max(v := errors(m, p, h), key=v.get), "not right yet"),
        (
            lambda m, p, h: max(v := {k: -e for k, e in errors(m, p, h).items()}, key=v.get) + "!",
            "return a key of `methods`",
        ),
        (lambda m, p, h: m[smallest(errors(m, p, h))], "a _Method; return a key"),
        (lambda m, p, h: errors(m, p, h), "a dict; return a key"),
        (in_uint8, "subtract as int"),
        (written_over, "work on a copy"),
        (drawn_anew, "The methods filled different holes"),
        (lambda m, p, h: [f(p, h.astype(float)) for f in m.values()], "given holes of float64"),
        (lambda m, p, h: [f(p / 255, h) for f in m.values()], "given photo of float64"),
        (lambda m, p, h: [f(p[:9], h[:9]) for f in m.values()], "given photo of uint8 (9, 210, 3)"),
        (
            lambda m, p, h: smallest(errors(m, p, h, own=lambda h: ~h)),
            "leave something to continue",
        ),
    ],
)
def test_chosen_method_wrong(check_output, answer, hint):
    text = check_output(checks.chosen_method, answer)
    assert text.startswith("Exercise 3: not right yet.") and hint.lower() in text.lower()
