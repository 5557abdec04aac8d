"""The checks of notebook 04 tell a stub, a right answer and each usual mistake apart."""

import functools
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from course import checks
from course.color_volume import weighted_in_volume
from course.missing_data import averages, disparity_map, linear, nearest
from scipy.interpolate import griddata
from scipy.ndimage import distance_transform_edt, uniform_filter1d
from scipy.spatial import KDTree
from torch.nn import functional as F

import pconv


@pytest.mark.parametrize(
    "check", [checks.still_unknown, checks.average_of_known, checks.fill_unknown]
)
@pytest.mark.parametrize("stub", [lambda *a: ..., lambda *a: None])
def test_notebook_04_stubs(check_output, check, stub):
    assert check_output(check, stub).endswith(": not attempted yet")


# Exercise 1


def left_over(gap, window, layers, at_end):
    return max(0, gap - layers * (window // 2) * (1 if at_end else 2))


def by_layers(gap, window, layers, at_end):
    """Watches a mask instead of a formula."""
    known = np.ones(500, bool)
    known[slice(-gap, None) if at_end else slice(200, 200 + gap)] = False
    for _ in range(layers):
        known = np.convolve(known, np.ones(window), "same") > 0.5
    return (~known).sum()


@pytest.mark.parametrize(
    "right",
    [
        left_over,
        by_layers,
        lambda *case: float(left_over(*case)),
        lambda *case: torch.tensor(left_over(*case)),
    ],
)
def test_still_unknown_right(check_output, right):
    assert "Exercise 1: right." in check_output(checks.still_unknown, right)


@pytest.mark.parametrize(
    "answer, hint",
    [
        (lambda g, w, n, end: max(0, g - n * (w - 1)), "they come from one side only"),
        (lambda g, w, n, end: g - n * (w - 1), "they come from one side only"),
        (lambda g, w, n, end: max(0, g - n * (w // 2)), "filled from both sides"),
        (lambda g, w, n, end: left_over(g, w, n, not end), "the wrong way round"),
        (lambda g, w, n, end: left_over(g, w, 1, end), "That is after one layer"),
        (lambda g, w, n, end: max(0, g - n * w), "besides it"),
        (lambda g, w, n, end: max(0, g - n * w // (1 + end)), "besides it"),
        (lambda g, w, n, end: g - n * (w // 2) * (2 - end), "Fewer than 0 samples"),
        (lambda g, w, n, end: g - left_over(g, w, n, end), "how many are left?"),
        (lambda g, w, n, end: g, "before the first layer"),
        (lambda g, w, n, end: left_over(g, w, n, end) + 1, "Draw the window"),
        (lambda g, w, n, end: left_over(g, w, n, end) / 3, "Return a whole number"),
        (lambda g, w, n, end: left_over(g, w, n, end) > 0, "Return a whole number"),
        (lambda *case: "none", "Return one whole number"),
        (lambda *case: [3, 4], "Return one whole number"),
        (lambda *case: torch.zeros(2), "Return one whole number"),
        (lambda *case: float("nan"), "Return a whole number"),
    ],
)
def test_still_unknown_wrong(check_output, answer, hint):
    text = check_output(checks.still_unknown, answer)
    assert text.startswith("Exercise 1: not right yet.") and hint in text


# Exercise 2


def box(x, window, value=0.0):
    x = F.pad(x, (window // 2, window // 2), value=value)
    return F.conv1d(x, torch.ones(1, 1, window))


def averaged(x, known, window, *, select=True, by=None, empty=torch.nan, outside=0.0):
    """The solution, with a switch for each mistake."""
    count = box(known.float(), window, outside)
    total = box(torch.where(known, x, 0) if select else x * known, window)
    return torch.where(count > 0, total / (count if by is None else by), empty)


def with_the_layer(x, known, window):
    conv = pconv.PartialConv1d(1, 1, window, padding=window // 2, bias=False)
    y, new_mask = conv.requires_grad_(False)(x, known)
    torch.nn.init.constant_(conv.weight, 1 / window)
    y, new_mask = conv(x, known)
    return y.where(new_mask > 0, torch.nan)


def with_scipy(x, known, window):
    filters = [
        uniform_filter1d(values.double().numpy(), window, mode="constant")
        for values in (torch.where(known, x, 0), known)
    ]
    return np.divide(*filters, out=np.full(x.shape, np.nan), where=filters[1] > 1e-9)


def as_a_loop(x, known, window):
    result = torch.full_like(x, torch.nan)
    for i in range(x.shape[2]):
        place = slice(max(i - window // 2, 0), i + window // 2 + 1)
        if known[0, 0, place].any():
            result[0, 0, i] = x[0, 0, place][known[0, 0, place]].mean()
    return result


@pytest.mark.parametrize(
    "right",
    [
        averaged,
        with_the_layer,
        with_scipy,
        as_a_loop,
        lambda x, known, window: averaged(x, known, window).double(),
        lambda x, k, w: box(torch.where(k, x, 0), w) / box(k.float(), w),  # 0 / 0 is NaN as well
    ],
)
def test_average_of_known_right(check_output, right):
    assert "Exercise 2: right." in check_output(checks.average_of_known, right)


@pytest.mark.parametrize(
    "answer, hint",
    [
        (lambda x, k, w: box(x, w) / w, "This is the plain average"),
        (functools.partial(averaged, select=False), "do not multiply"),
        (lambda x, k, w: averaged(x, k, w, by=w, empty=0), "an unknown sample counts as 0"),
        (
            lambda x, k, w: averaged(x, k, w, by=box(torch.ones_like(x), w), empty=0),
            "inside the signal, known or not",
        ),
        (functools.partial(averaged, outside=1.0), "At the ends"),
        (functools.partial(averaged, empty=0), "return NaN, not 0"),
        (lambda x, k, w: x.where(k, averaged(x, k, w)), "Smooth all of the signal"),
        (lambda x, k, w: box(torch.where(k, x, 0), w) * box(k.float(), w) / w**2, "upside down"),
        (lambda x, k, w: box(torch.where(k, x, 0), w), "That is the sum"),
        (lambda x, k, w: averaged(x, x.isfinite(), w), "a finite value may be unknown"),
        (lambda x, k, w: averaged(x, k & (x != 0), w), "A known sample may be 0"),
        (lambda x, k, w: averaged(x, ~k, w), "You average the unknown samples"),
        (lambda x, k, w: averaged(x, k, 7), "Window 3:"),
        (lambda x, k, w: averaged(x, k, w) + 0.01, "expected"),
        (lambda x, k, w: averaged(x, k, w).nan_to_num(10), "return NaN"),
        (lambda x, k, w: averaged(x, k, w).where(k, torch.nan), "hold a known sample"),
        (lambda x, k, w: F.conv1d(x, torch.ones(1, 1, w)), "yours is (1, 1, 54)"),
        (lambda x, k, w: averaged(x, k, w).tolist(), "yours is a list"),
        (lambda x, k, w: averaged(x, k, w)[0, 0], "yours is (60,)"),
        (lambda x, k, w: np.full(x.shape, "x"), "Return numbers"),
        (lambda x, k, w: averaged(x.nan_to_num_(0), k, w), "writes into what it is given"),
    ],
)
def test_average_of_known_wrong(check_output, answer, hint):
    text = check_output(checks.average_of_known, answer)
    assert text.startswith("Exercise 2: not right yet.") and hint in text


# Exercise 3


def nearest_of_its_color(values, photo, scale=60):
    """The nearest known pixel, where a difference in color counts as distance, too."""
    known = values.isfinite()
    points = torch.cat((torch.ones_like(known).nonzero(), scale * photo.flatten(1).T), 1).numpy()
    closest = KDTree(points[known.view(-1)]).query(points[~known.view(-1)])[1]
    filled = values.clone()
    filled[~known] = values[known][torch.from_numpy(closest)]
    return filled


def with_griddata(values, photo):
    """Only the rims are given to it: they are all that it reads, and it takes a tenth as long."""
    unknown = values.isnan().numpy()
    rim = ~unknown & (distance_transform_edt(~unknown) < 3)
    filled = nearest(values).numpy()
    inside = griddata(np.argwhere(rim), values.numpy()[rim], np.argwhere(unknown), "linear")
    filled[unknown] = np.where(np.isfinite(inside), inside, filled[unknown])
    return filled


truth = disparity_map(4).nan_to_num(0)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    "right, better",
    [
        (nearest_of_its_color, "Better: mean error"),
        (lambda v, p: nearest_of_its_color(v, p).double().numpy(), "Better: mean error"),
        (lambda v, p: weighted_in_volume(v[None], p.mean(0), 30)[0], "Better: mean error"),
        (lambda v, p: linear(v), "Better: share off by more than 20 pixels"),
    ],
)
def test_fill_unknown_right(check_output, right, better):
    text = check_output(checks.fill_unknown, right)
    assert text.startswith("Exercise 3: right.") and better in text


def test_fill_unknown_accepts_griddata():
    """The mean alone does not tell it from the nearest pixel: it is less often far off.

    In a process of its own: beside other busy programs the threads of scipy's BLAS take a minute.
    """
    code = "import test_checks_missing_data as here; here.checks.fill_unknown(here.with_griddata)"
    environment = os.environ | {
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    text = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert text.startswith("Exercise 3: right.") and "off by more than 20 pixels." in text


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    "answer, hint",
    [
        (lambda v, p: v, "pixels are not filled"),
        (lambda v, p: averages(v).round(), "Known pixels have changed"),
        (lambda v, p: v.nan_to_num(0), "Does an unknown pixel count as 0"),
        (lambda v, p: nearest(v), "This is the nearest known pixel"),
        (lambda v, p: averages(v), "worse: median error"),
        (lambda v, p: v.where(v.isfinite(), v.nanmean()), "The nearest pixels know most"),
        (lambda v, p: truth.where(v.isnan(), v), "has been looked up"),
        (lambda v, p: averages(v)[None], "Return a tensor of shape (125, 186)"),
        (lambda v, p: averages(v).tolist(), "yours is a list"),
        (lambda v, p: nearest(v).nan_to_num_(0) + 0 * v.nan_to_num_(0), "writes into"),
        (lambda v, p: v.where(v.isfinite(), nearest(v) + 0.001 * p[0]), "Undecided"),
    ],
)
def test_fill_unknown_wrong(check_output, answer, hint):
    text = check_output(checks.fill_unknown, answer)
    assert text.startswith("Exercise 3: not right yet.") and hint in text
