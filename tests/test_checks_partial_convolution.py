"""The checks of notebook 01 tell a stub, a right answer and each usual mistake apart."""

import itertools

import numpy as np
import pytest
import torch
from course import checks
from torch.nn import functional as F

import pconv

# Exercise 1


@pytest.mark.parametrize("stub", [lambda width, kernel: ..., lambda width, kernel: None])
def test_layers_at_the_border_stub(check_output, stub):
    assert check_output(checks.layers_at_the_border, stub) == "Exercise 1: not attempted yet"


def test_layers_at_the_border_right(check_output):
    for number in (int, torch.tensor, np.int64):
        answer = lambda w, k, number=number: number(-(-w // ((k - 1) // 2)))  # noqa: E731
        assert "Exercise 1: right." in check_output(checks.layers_at_the_border, answer)


@pytest.mark.parametrize(
    "answer, hint",
    [
        (lambda w, k: -(-w // (k - 1)), "from one only"),
        (lambda w, k: w // ((k - 1) // 2), "round down"),
        (lambda w, k: 2 * w / (k - 1), "round up"),
        (lambda w, k: float(-(-w // ((k - 1) // 2))), "return an int"),
        (lambda w, k: -(-w // k), "centre to its edge"),
        (lambda w, k: w // (k - 1), "rounded down"),
        (
            lambda w, k: w // (k // 2) + (w % (k // 2) == 1),
            "14 pixels, kernel 7: 5 layers when measured",
        ),
        (lambda w, k: int(w / (k // 2) + 2 / 3), "9 pixels, kernel 9: 3 layers when measured"),
        (lambda w, k: str(-(-w // (k // 2))), "your answer is '7'"),
        (lambda w, k: 100, "By how many pixels"),
    ],
)
def test_layers_at_the_border_wrong(check_output, answer, hint):
    text = check_output(checks.layers_at_the_border, answer)
    assert text.startswith("Exercise 1: not right yet.") and hint in text


# Exercise 2


def attempt(
    x,
    mask,
    weight,
    bias,
    *,
    ratio=lambda total: 9 / total,
    scale_bias=False,
    bias_everywhere=False,
    product=False,
    new=lambda total, mask: (total > 0.5).float(),
    nan_when_empty=False,
    padding=1,
    with_bias=True,
):
    """The solution, with a switch for each mistake."""
    total = F.conv2d(mask, torch.ones(1, 1, 3, 3), padding=padding)
    x = x * mask if product else torch.where(mask > 0, x, 0)
    b = bias.view(1, -1, 1, 1) if with_bias else 0
    y = F.conv2d(x, weight, padding=padding)
    y = (y + b) * ratio(total) if scale_bias else y * ratio(total) + b
    if not nan_when_empty:
        y = torch.where(total > 0.5, y, b if bias_everywhere else 0)
    return y, new(total, mask)


def inside_the_image(total):
    return F.conv2d(torch.ones_like(total), torch.ones(1, 1, 3, 3), padding=1) / total


def wrong(**switches):
    return lambda x, mask, weight, bias: attempt(x, mask, weight, bias, **switches)


@pytest.mark.parametrize("stub", [lambda *a: ..., lambda *a: None, lambda *a: (..., ...)])
def test_partial_conv_stub(check_output, stub):
    assert check_output(checks.partial_conv, stub) == "Exercise 2: not attempted yet"


def ignoring_the_mask(x, mask, weight, bias):
    """Takes what is far from other values for a hole."""
    total = F.conv2d(mask, torch.ones(1, 1, 3, 3), padding=1)
    y = F.conv2d(x.where(x.abs() < 50, 0), weight, padding=1) * 9 / total + bias.view(1, -1, 1, 1)
    return y.where(total > 0, 0), (total > 0).float()


def per_pixel(x, mask, weight, bias):
    """The loop of the notebook, right but slow."""
    y, new_mask = attempt(x, mask, weight, bias)
    padded, seen = F.pad(x.where(mask > 0, 0), (1, 1, 1, 1)), F.pad(mask, (1, 1, 1, 1))
    for i in range(mask.shape[2]):
        for j in range(mask.shape[3]):
            window = padded[:, None, :, i : i + 3, j : j + 3]
            total = seen[:, 0, i : i + 3, j : j + 3].sum((1, 2))[:, None]
            value = (weight * window).sum((2, 3, 4)) * 9 / total + bias
            y[:, :, i, j] = value.where(total > 0, 0)
    return y, new_mask


def per_offset(x, mask, weight, bias):
    """A loop over the nine pixels of the window: its calls do not grow with the image."""
    height, width = mask.shape[2:]
    padded, seen = F.pad(x.where(mask > 0, 0), (1, 1, 1, 1)), F.pad(mask, (1, 1, 1, 1))
    y = total = 0
    for i in range(3):
        for j in range(3):
            window = padded[:, :, i : i + height, j : j + width]
            y = y + torch.einsum("dc,nchw->ndhw", weight[:, :, i, j], window)
            total = total + seen[:, :, i : i + height, j : j + width]
    y = torch.where(total > 0, y * 9 / total + bias.view(1, -1, 1, 1), 0)
    return y, (total > 0).float()


def inverted(x, mask, weight, bias):
    """Takes 1 for a hole."""
    return attempt(x, 1 - mask, weight, bias)


def mask_per_channel(x, mask, weight, bias):
    y, new_mask = attempt(x, mask, weight, bias)
    return y, new_mask.expand_as(x)


def in_place(x, mask, weight, bias):
    x[(mask == 0).expand_as(x)] = 0
    return attempt(x, mask, weight, bias)


@pytest.mark.parametrize(
    "right",
    [
        attempt,
        per_offset,
        lambda *a: list(attempt(*a)),
        lambda *a: (attempt(*a)[0].double(), attempt(*a)[1]),
    ],
)
def test_partial_conv_right(check_output, right):
    assert "Exercise 2: right." in check_output(checks.partial_conv, right)


@pytest.mark.parametrize(
    "answer, hint",
    [
        (wrong(ratio=lambda total: 1 / total), "The ratio is 1/sum(M): it is sum(1)/sum(M)"),
        (wrong(ratio=lambda total: 27 / total), "The ratio is 27/sum(M)"),
        (wrong(ratio=lambda total: total / 9), "upside down"),
        (wrong(ratio=lambda total: 1), "The ratio is missing"),
        (wrong(scale_bias=True), "The bias is scaled too"),
        (wrong(scale_bias=True, ratio=lambda total: 1 / total), "and it scales the bias too"),
        (wrong(with_bias=False), "The bias is missing"),
        (wrong(bias_everywhere=True), "y is the bias"),
        (wrong(nan_when_empty=True), "9/0"),
        (wrong(product=True), "select with torch.where"),
        (wrong(new=lambda total, mask: total), "new_mask holds"),
        (wrong(new=lambda total, mask: mask), "is the old mask"),
        (wrong(new=lambda total, mask: (total < 0.5).float()), "inverted"),
        (wrong(new=lambda total, mask: (total > 8.5).float()), "fewer valid pixels"),
        (wrong(new=lambda total, mask: torch.ones_like(total)), "a valid pixel too many"),
        (wrong(padding=0), "expected (2, 1, 9, 10): is the padding 1?"),
        (lambda *a: (attempt(*a)[0][:, :2], attempt(*a)[1]), "y has shape"),
        (lambda *a: attempt(*a)[0], "Return two tensors"),
        (lambda *a: attempt(*a)[::-1], "Return y first"),
        (lambda *a: (attempt(*a)[0][:, :1], attempt(*a)[1]), "one plane for each feature"),
        (lambda *a: (attempt(*a)[0], attempt(*a)[1].bool()), "new_mask is torch.bool"),
        (
            lambda x, m, w, b: (attempt(x, m, w, b)[0] * m, attempt(x, m, w, b)[1]),
            "wherever the OLD mask is",
        ),
        (lambda x, m, w, b: attempt(x.where(m == 0, 0), m, w, b), "the holes kept"),
        (wrong(ratio=lambda total: 1, with_bias=False), "The ratio is missing, and the bias"),
        (wrong(ratio=inside_the_image), "sum(1) is 9 at the border, too"),
        (ignoring_the_mask, "depends on what stands in the holes (try 0.5)"),
        (
            lambda x, m, w, b: (
                attempt(x, m, w, b)[0].reshape(2, 4, 9, 10),
                attempt(x, m, w, b)[1],
            ),
            "is a size typed in?",
        ),
        (per_pixel, "it is a loop"),
        (inverted, "The polarity is the other way round"),
        (mask_per_channel, "do not expand it over the channels"),
        (
            lambda x, m, w, b: attempt(x, m, w, b, ratio=lambda total: m.numel() / m.sum()),
            "one ratio for the whole batch",
        ),
        (in_place, "argument 1 has changed"),
        (lambda x, m, w, b: attempt(x, m, w.flip(2), b), "pixels of its window are valid"),
    ],
)
def test_partial_conv_wrong(check_output, answer, hint):
    text = check_output(checks.partial_conv, answer)
    assert text.startswith("Exercise 2: not right yet.") and hint in text


# Exercise 3


@pytest.mark.parametrize("stub", [..., None, []])
def test_filling_network_stub(check_output, stub):
    assert check_output(checks.filling_network, stub) == "Exercise 3: not attempted yet"


@pytest.mark.parametrize("right", [[(3, 2)] * 6, ((7, 2), (5, 2), (5, 2), (3, 2), (3, 2), (3, 2))])
def test_filling_network_right(check_output, right):
    assert "Exercise 3: right." in check_output(checks.filling_network, right)


def test_filling_network_knows_the_best(check_output):
    """By trying all networks of at most six layers on the formula of the receptive field."""
    networks = [
        (n, kernels) for n in range(1, 7) for kernels in itertools.product((3, 5, 7), repeat=n)
    ]
    fill = [
        (n, ks) for n, ks in networks if 1 + sum((k - 1) * 2**i for i, k in enumerate(ks)) > 100
    ]
    assert min(n for n, _ in fill) == 5 and min(sum(k * k for k in ks) for _, ks in fill) == 54
    assert min(sum(k * k for k in ks) for n, ks in fill if n == 5) == 77
    assert "No network has fewer layers. Fewer weights?" in check_output(
        checks.filling_network, [(7, 2)] * 5
    )
    assert "With five, none less" in check_output(
        checks.filling_network, [(3, 2)] * 3 + [(5, 2)] * 2
    )
    assert "No network has fewer weights" in check_output(checks.filling_network, [(3, 2)] * 6)


@pytest.mark.parametrize(
    "layers, width", [([(3, 2)] * 6, 63), ([(7, 2)] * 6, 189), ([(7, 2)] + [(5, 2)] * 5, 127)]
)
def test_filling_network_says_what_it_fills_in_a_corner(check_output, layers, width):
    """One side of the receptive field: the sum of (k - 1) / 2 times the strides before."""
    assert sum((k - 1) // 2 * 2**i for i, (k, _) in enumerate(layers)) == width
    assert f"a hole of {width} pixels" in check_output(checks.filling_network, layers)
    mask = torch.ones(1, 1, 512, 512)
    mask[..., :width, :width] = 0
    for fits in (True, False):
        after = mask
        for kernel, stride in layers:
            conv = pconv.PartialConv2d(1, 1, kernel, stride, kernel // 2)
            after = conv.window_ratio([after], [1])[1]
        assert after.bool().all() == fits
        mask[..., : width + 1, : width + 1] = 0


@pytest.mark.parametrize(
    "answer, hint",
    [
        ([(7, 1)] * 6, "receptive field is 37 pixels, and the hole is 100. Hint: a stride of 2"),
        ([(3, 1)] * 3 + [(7, 2)] * 3, "helps only the layers after it"),
        ([(3, 2)] * 7, "These are 7 layers"),
        ([(7, 2)] * 4, "Hint: you have 2 more"),
        ([(3, 2)] * 4 + [(3, 1)] * 2, "the last windows have the largest steps"),
        ([(3.0, 2.0)] * 6, "whole numbers"),
        ([("3", "2")] * 6, "whole numbers"),
        (np.array([(3, 2)] * 6), "Give a list of pairs"),
        ([(9, 2)] * 5, "a kernel is 3, 5 or 7"),
        ([(1, 2)] * 5 + [(5, 1)], "a kernel is 3, 5 or 7"),
        ((7, 2), "Give a list of pairs"),
        ([3, 3, 3], "Give a list of pairs"),
        (5, "Give a list of pairs"),
        ([(4, 2)] * 6, "a kernel is 3, 5 or 7"),
        ([(7, 4)] * 3, "a stride is 1 or 2"),
    ],
)
def test_filling_network_wrong(check_output, answer, hint):
    text = check_output(checks.filling_network, answer)
    assert text.startswith("Exercise 3: not right yet.") and hint in text
