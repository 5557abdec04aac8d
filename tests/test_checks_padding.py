"""The checks of notebook 03 tell a stub, a right answer and each usual mistake apart."""

import functools

import pytest
import torch
from course import checks
from torch.nn import functional as F


def ratio_at_border(
    kernel, padding, dilation, *, outside=lambda k, p, d: -(-p // d), corner=lambda edge: edge**2
):
    """The solution, with a switch for each mistake."""
    edge = kernel / (kernel - outside(kernel, padding, dilation))
    return edge, corner(edge)


@pytest.mark.parametrize("check", [checks.padding_ratio, checks.partial_padding])
@pytest.mark.parametrize("stub", [lambda *a: ..., lambda *a: None, lambda *a: (..., ...)])
def test_notebook_03_stubs(check_output, check, stub):
    assert check_output(check, stub).endswith(": not attempted yet")


def test_padding_ratio_right(check_output):
    assert "Exercise 1: right." in check_output(checks.padding_ratio, ratio_at_border)


@pytest.mark.parametrize(
    "switches, hint",
    [
        ({"corner": lambda edge: edge}, "hangs over two sides"),
        ({"corner": lambda edge: 1 / (2 / edge - 1)}, "are counted twice"),
        ({"corner": lambda edge: 2 * edge}, "1.66667 and 2.77778 when measured"),
        ({"corner": lambda edge: 7}, "1.66667 and 2.77778 when measured"),
        (
            {"outside": lambda k, p, d: p},
            "Kernel 3, padding 2, dilation 2: Pixels of the window lie a dilation apart",
        ),
        (
            {"outside": lambda k, p, d: p // d},
            "Round up: of the positions -3, -1, 1, 3, 5 outside are 2",
        ),
        (
            {"outside": lambda k, p, d: round(p / d)},
            "Kernel 3, padding 1, dilation 3: Round up: of the positions -1, 2, 5",
        ),
        ({"outside": lambda k, p, d: int(p / d + 0.5)}, "Kernel 3, padding 1, dilation 3"),
        ({"outside": lambda k, p, d: p // d + p % d}, "Kernel 7, padding 5, dilation 3"),
        ({"outside": lambda k, p, d: p - (d - 1)}, "Kernel 3, padding 1, dilation 3"),
        (
            {"outside": lambda k, p, d: p if d == 1 else (p + 1) // 2},
            "Kernel 7, padding 5, dilation 3",
        ),
        (
            {"outside": lambda k, p, d: k // 2},
            "Kernel 7, padding 1, dilation 1: The window hangs over by its padding",
        ),
    ],
)
def test_padding_ratio_wrong(check_output, switches, hint):
    text = check_output(checks.padding_ratio, functools.partial(ratio_at_border, **switches))
    assert text.startswith("Exercise 1: not right yet.") and hint in text


def test_padding_ratio_upside_down_and_single(check_output):
    assert "upside down" in check_output(
        checks.padding_ratio, lambda *a: [1 / r for r in ratio_at_border(*a)]
    )
    for answer in (ratio_at_border(3, 1, 1)[0], ("edge", "corner"), (1.5, ...)):
        assert "Return two numbers" in check_output(
            checks.padding_ratio, lambda *a, answer=answer: answer
        )


def test_padding_ratio_measured_with_a_convolution(check_output):
    """An answer of tensors, which have a gradient, is read as well."""

    def measured(kernel, padding, dilation):
        conv = torch.nn.Conv2d(1, 1, kernel, padding=padding, dilation=dilation, bias=False)
        torch.nn.init.ones_(conv.weight)
        ratio = kernel**2 / conv(torch.ones(1, 1, 50, 50))[0, 0]
        return ratio[0, 25], ratio[0, 0]

    assert "Exercise 1: right." in check_output(checks.padding_ratio, measured)


def padded(
    x,
    weight,
    bias,
    *,
    ratio=lambda total: 9 / total,
    scale_bias=False,
    with_bias=True,
    seen=torch.ones_like,
):
    """The solution, with a switch for each mistake."""
    total = F.conv2d(seen(x)[:, :1], torch.ones(1, 1, 3, 3), padding=1)
    y, b = F.conv2d(x, weight, padding=1), bias.view(1, -1, 1, 1) if with_bias else 0
    return (y + b) * ratio(total) if scale_bias else y * ratio(total) + b


def replicated(x, weight, bias):
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), weight, bias)


def keeping_the_first_ratio():
    kept = []
    return lambda x, w, b: padded(
        x, w, b, ratio=lambda total: kept[0] if kept else (kept.append(9 / total) or kept[0])
    )


def all_channels(x, weight, bias, *, ones=None):
    """The window sum over as many channels as x has."""
    total = F.conv2d(torch.ones_like(x), torch.ones_like(weight[:1]), padding=1)
    return F.conv2d(x, weight, padding=1) * (ones or weight[0].numel()) / total + bias.view(
        1, -1, 1, 1
    )


def by_place(x, weight, bias):
    """Edges times 1.5: wrong where the image is one row high, and both edges are one."""
    y = F.conv2d(x, weight, padding=1)
    for edge in (y[..., 0, :], y[..., -1, :], y[..., 0], y[..., -1]):
        edge *= 1.5
    return y + bias.view(1, -1, 1, 1)


def by_numpy(x, weight, bias, kept=[]):  # noqa: B006
    """As keeping_the_first_ratio, in NumPy, which raises ValueError."""
    kept.append(9 / F.conv2d(torch.ones_like(x[:1, :1]), torch.ones(1, 1, 3, 3), padding=1).numpy())
    return torch.from_numpy(F.conv2d(x, weight, padding=1).numpy() * kept[0]) + bias.view(
        1, -1, 1, 1
    )


@pytest.mark.parametrize("right", [padded, all_channels])
def test_partial_padding_right(check_output, right):
    assert "Exercise 2: right." in check_output(checks.partial_padding, right)


@pytest.mark.parametrize(
    "answer, hint",
    [
        (functools.partial(padded, ratio=lambda total: 1), "this is zero padding"),
        (functools.partial(padded, scale_bias=True), "The bias is scaled too"),
        (functools.partial(padded, with_bias=False), "The bias is missing"),
        (
            functools.partial(padded, with_bias=False, ratio=lambda total: 1),
            "The ratio is missing, and the bias",
        ),
        (functools.partial(padded, ratio=lambda total: total / 9), "upside down"),
        (functools.partial(padded, ratio=lambda total: 1 / total), "The ratio is 1/sum(M)"),
        (functools.partial(padded, ratio=lambda total: 3 / total), "three times too small"),
        (functools.partial(all_channels, ones=27), "one channel, or as many as x has"),
        (
            functools.partial(padded, seen=lambda x: (x != 0).any(1, keepdim=True).float()),
            "A black pixel is known",
        ),
        (by_place, "The value"),
        (by_numpy, "is a ratio kept, or a size typed in?"),
        (replicated, "replicate padding"),
        (keeping_the_first_ratio(), "is a ratio kept, or a size typed in?"),
        (
            lambda x, w, b: F.conv2d(x, w, b),
            "shape (2, 4, 7, 8), expected a tensor of shape (2, 4, 9, 10)",
        ),
        (lambda x, w, b: padded(x, w.flip(2), b), "expected"),
    ],
)
def test_partial_padding_wrong(check_output, answer, hint):
    text = check_output(checks.partial_padding, answer)
    assert text.startswith("Exercise 2: not right yet.") and hint in text


# Exercise 3


def starts(length, size, step):
    """Where tiles begin; the last one ends at the end."""
    if length <= size:
        return [0]
    return [*range(0, length - size, step), length - size]


def tiled(net, image, size, reach, *, keep=None, step=None, whole=False, pad=0):
    """The solution, with a switch for each mistake."""
    height, width = image.shape[2:]
    keep = reach if keep is None else keep
    step = size - 2 * reach if step is None else step
    if whole:
        return net(image)
    if pad:
        image = F.pad(image, (pad,) * 4)
    result = torch.zeros(1, 3, height, width)
    for top in starts(height, size, step):
        for left in starts(width, size, step):
            tile = image[..., top : top + size + pad, left : left + size + pad][..., :size, :size]
            y = net(tile)
            bottom, right = top + tile.shape[2], left + tile.shape[3]
            a = keep if top else 0
            b = keep if left else 0
            c = tile.shape[2] - (keep if bottom < height else 0)
            d = tile.shape[3] - (keep if right < width else 0)
            part = y[..., a:c, b:d]
            place = result[..., top + a : top + c, left + b : left + d]
            place.copy_(part[..., : place.shape[2], : place.shape[3]])
    return result


def pixel_by_pixel(net, image, size, reach):
    """Right, but a tile for every pixel."""
    result = torch.zeros_like(image)
    height, width = image.shape[2:]
    for row in range(height):
        for column in range(width):
            top, left = max(row - reach, 0), max(column - reach, 0)
            tile = image[..., top : row + reach + 1, left : column + reach + 1]
            result[..., row, column] = net(tile)[..., row - top, column - left]
    return result


def split_only(net, image, size, reach):
    return torch.cat(
        [torch.cat([net(t) for t in row.split(size, 3)], 3) for row in image.split(size, 2)], 2
    )


@pytest.mark.parametrize("stub", [lambda *a: ..., lambda *a: None])
def test_run_in_tiles_stub(check_output, stub):
    assert check_output(checks.run_in_tiles, stub) == "Exercise 3: not attempted yet"


def test_run_in_tiles_right(check_output):
    text = check_output(checks.run_in_tiles, tiled)
    assert text.startswith("Exercise 3: right.") and "pixels computed per pixel" in text


@pytest.mark.parametrize(
    "answer, hint",
    [
        (split_only, "do not overlap"),
        (functools.partial(tiled, whole=True), "a tile is 45 x 67, at most 20"),
        (functools.partial(tiled, keep=2), "at least 4 away from each border of its tile"),
        (functools.partial(tiled, keep=0), "at least 4 away from each border of its tile"),
        (functools.partial(tiled, step=20), "pixels differ"),
        (functools.partial(tiled, pad=4), "pixels differ"),
        (lambda *a: tiled(*a)[..., 1:], "the result is (1, 3, 45, 66), expected (1, 3, 45, 67)"),
        (lambda *a: tiled(*a).numpy(), "the result is ndarray"),
        (lambda net, image, size, reach: image, "has not been called"),
        (pixel_by_pixel, "keep more of each tile"),
    ],
)
def test_run_in_tiles_wrong(check_output, answer, hint):
    text = check_output(checks.run_in_tiles, answer)
    assert text.startswith("Exercise 3: not right yet.") and hint in text
