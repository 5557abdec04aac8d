"""Checks of notebook 01.

Layers at the border, the partial convolution, a network that fills a hole.
"""

import operator
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

import pconv
from course.checks.exercise import (
    NotAttemptedError,
    WrongError,
    call_answer,
    exercise,
    require_answer,
)


@exercise("Exercise 1")
def layers_at_the_border(answer: Callable[[int, int], int]) -> str:
    """answer(width, kernel): layers until a hole along one border of the image is full."""
    cases = ((7, 3), (1, 3), (4, 3), (6, 5), (7, 5), (12, 7), (13, 7), (14, 7), (9, 9))
    actual = [require_answer(answer(*case)) for case in cases]
    for mistake, hint in (
        (
            lambda w, k: -(-w // (k - 1)),
            "That is a hole with valid pixels on all sides; here they come from one only.",
        ),
        (
            lambda w, k: w // (k - 1),
            "That is a hole with valid pixels on all sides, rounded down; here it is one side.",
        ),
        (
            lambda w, k: w // ((k - 1) // 2),
            "You round down: the last pixels need a whole layer too.",
        ),
        (lambda w, k: 2 * w / (k - 1), "Layers are whole: round up."),
        (
            lambda w, k: -(-w // k),
            "A layer does not advance by the whole window, only from its centre to its edge.",
        ),
        (None, "By how many pixels does one layer move the edge of the hole?"),
    ):
        if mistake is None or actual == [mistake(*case) for case in cases]:
            for (width, kernel), layers in zip(cases, actual):
                expected = _measured_at_the_border(width, kernel)
                if isinstance(layers, str) or layers != expected:
                    case = (
                        f"{width} pixels, kernel {kernel}: {expected} layers when measured, your "
                        f"answer is {layers!r}."
                    )
                    raise WrongError(f"{case} {hint}")
    try:
        list(map(operator.index, actual))
    except TypeError:
        raise WrongError(
            "The values are right, but layers are a whole number: return an int."
        ) from None
    return "From one side it takes about twice the layers."


def _measured_at_the_border(width: int, kernel: int) -> int:
    conv = pconv.PartialConv1d(1, 1, kernel, padding=kernel // 2)
    mask, layers = torch.ones(1, 1, width + 8), 0
    mask[..., :width] = 0
    while not mask.all():
        mask, layers = conv.window_ratio([mask], [1])[1], layers + 1
    return layers


@exercise("Exercise 2")
def partial_conv(answer: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]) -> str:
    """answer(x, mask, weight, bias) -> y, new_mask: a 3x3 partial convolution, padding 1.

    It needs no loop.
    """
    calls = []
    for sizes in ((2, 3, 4, 9, 10), (1, 2, 3, 7, 12), (1, 2, 3, 14, 24)):
        x, mask, weight, bias = example(*sizes)
        conv = pconv.PartialConv2d(*sizes[1:3], 3, padding=1)
        conv.load_state_dict({"weight": weight, "bias": bias})
        with torch.no_grad():
            expected, right_mask = conv(x, mask)
            try:
                with _CountCalls() as counted:
                    result = call_answer(answer, x, mask, weight, bias)
            except (RuntimeError, ValueError, IndexError) as error:
                if x.shape == example()[0].shape:
                    raise
                raise WrongError(
                    f"It fails for {tuple(x.shape)}: is a size typed in? {error}"
                ) from None
        calls.append(counted.calls)
        if not (
            isinstance(result, tuple | list)
            and len(result) == 2
            and all(isinstance(part, Tensor) for part in result)
        ):
            raise WrongError("Return two tensors: y, new_mask.")
        y, new_mask = result
        if (y.shape, new_mask.shape) == (right_mask.shape, expected.shape):
            raise WrongError("Return y first, then new_mask.")
        _examine_mask(new_mask, mask, right_mask)
        if y.shape != expected.shape:
            why = (
                "is the padding 1?"
                if y.shape[2:] != expected.shape[2:]
                else "one plane for each feature of weight."
            )
            raise WrongError(
                f"y has shape {tuple(y.shape)}, expected {tuple(expected.shape)}: {why}"
            )
        _examine_pixels(y.float(), expected, right_mask, x, mask, weight, bias)
        for value in (0.5, 99.0, float("nan")):
            with torch.no_grad():
                other = call_answer(answer, x.where(mask > 0, value), mask, weight, bias)[0].float()
            if not torch.allclose(other, expected, rtol=1e-4, atol=1e-4):
                if value == value:
                    raise WrongError(
                        f"y depends on what stands in the holes (try {value:g}): leave them out "
                        "of the sum."
                    )
                raise WrongError(
                    "With NaN in the holes y is wrong: 0 · NaN is NaN, so select with torch.where."
                )
    if calls[2] > 1.5 * calls[1]:
        raise WrongError(
            f"Right, but it is a loop: {calls[1]} calls of PyTorch for 7 x 12 pixels and "
            f"{calls[2]} for 14 x 24. One F.conv2d does all windows of all images."
        )
    return "Holes of 0, 0.5, 99 and NaN give the same y, and an empty window gives 0."


class _CountCalls(TorchFunctionMode):
    """Counts the calls of PyTorch's functions and tensor methods."""

    calls = 0

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        self.calls += 1
        return function(*arguments, **(keywords or {}))


def example(
    batch=2, channels=3, features=4, height=9, width=10
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns x (N, C, H, W), mask (N, 1, H, W), weight (D, C, 3, 3) and bias (D,).

    x is 0 in the holes. The 3x3 windows of the mask hold 0 to 9 valid pixels.
    """
    generator = torch.Generator().manual_seed(0)
    mask = (torch.rand(batch, 1, height, width, generator=generator) > 0.3).float()
    mask[:, :, 2:7, 3:8] = 0  # a hole with empty windows
    mask[:, :, 3:8, :3] = 1  # and windows without a hole
    x = torch.randn(batch, channels, height, width, generator=generator) * mask
    weight = torch.randn(features, channels, 3, 3, generator=generator)
    return x, mask, weight, torch.randn(features, generator=generator)


def _examine_mask(new_mask: Tensor, mask: Tensor, expected: Tensor) -> None:
    if new_mask.shape != expected.shape:
        why = (
            "is the padding 1?"
            if new_mask.shape[2:] != expected.shape[2:]
            else "the mask has one channel, for all features; do not expand it over the channels."
        )
        raise WrongError(
            f"new_mask has shape {tuple(new_mask.shape)}, expected {tuple(expected.shape)}: {why}"
        )
    if new_mask.dtype != mask.dtype:
        raise WrongError(
            f"new_mask is {new_mask.dtype}: it is the next layer's mask, so give it the type of "
            "the mask."
        )
    if (other := new_mask[(new_mask != 0) & (new_mask != 1)]).numel():
        raise WrongError(
            f"new_mask holds {other[0]:g}: it is 1 wherever sum(M) > 0, and 0 elsewhere."
        )
    if torch.equal(new_mask, mask):
        raise WrongError(
            "new_mask is the old mask: a pixel becomes valid if its window holds a valid one (Eq. "
            "2)."
        )
    if torch.equal(new_mask, 1 - expected):
        raise WrongError("new_mask is inverted: 1 = valid, 0 = hole.")
    if torch.equal(new_mask, F.max_pool2d(1 - mask, 3, 1, 1)):
        raise WrongError(
            "The polarity is the other way round: the mask is 1 where a pixel is VALID, and you "
            "let the holes grow."
        )
    if not torch.equal(new_mask, expected):
        if (new_mask > expected).any():
            raise WrongError(
                "new_mask has a valid pixel too many: one whose 3x3 window holds none stays a hole."
            )
        raise WrongError(
            "new_mask has fewer valid pixels than it should: ONE in the 3x3 window is enough."
        )


def _examine_pixels(
    y: Tensor, expected: Tensor, valid: Tensor, x: Tensor, mask: Tensor, weight, bias
) -> None:
    """Compares y with what the usual mistakes would give.

    First where the window held a valid pixel, then where it held none.
    """
    total = F.conv2d(mask, torch.ones(1, 1, 3, 3), padding=1)
    inside, empty = (valid > 0).expand_as(y), (valid == 0).expand_as(y)
    features, b = F.conv2d(x, weight, padding=1), bias.view(1, -1, 1, 1)
    inner = F.conv2d(torch.ones_like(mask), torch.ones(1, 1, 3, 3), padding=1)

    def is_like(other: Tensor) -> bool:
        return torch.allclose(y[inside], other.expand_as(y)[inside], rtol=1e-4, atol=1e-4)

    if not y[inside].isfinite().all():
        raise WrongError("y is not finite where the window does hold valid pixels.")
    for other, hint in (
        (features + b, "The ratio is missing: multiply W(X·M) by sum(1)/sum(M)."),
        (
            features / total + b,
            "The ratio is 1/sum(M): it is sum(1)/sum(M), so 9/sum(M), and 1 where all is valid.",
        ),
        (
            features * 27 / total + b,
            "The ratio is 27/sum(M): the mask has one channel, so sum(1) is 9 as well.",
        ),
        (
            (features + b) * 9 / total,
            "The bias is scaled too: add it after the ratio (F.conv2d(..., bias=None)).",
        ),
        (
            (features + b) / total,
            "The ratio is 1/sum(M), and it scales the bias too: y = W(X·M) · 9/sum(M) + b.",
        ),
        (features * 9 / total, "The bias is missing."),
        (features * total / 9 + b, "The ratio is upside down: it grows as fewer pixels are valid."),
        (features, "The ratio is missing, and the bias: y = W(X·M) · 9/sum(M) + b."),
        (
            features * mask.numel() / mask.sum() + b,
            "This is one ratio for the whole batch: each window has its own sum(M).",
        ),
        (
            features * mask[0].numel() / mask.sum((1, 2, 3), keepdim=True) + b,
            "This is one ratio per image: each window has its own sum(M).",
        ),
        (b, "y is the bias alone: the valid pixels have been left out, and the holes kept."),
        (
            expected * mask,
            "y is 0 wherever the OLD mask is: a window that holds one valid pixel has a value "
            "(Eq. 1).",
        ),
        (
            features * inner / total + b,
            "sum(1) is 9 at the border, too: what lies outside the image is a hole.",
        ),
    ):
        if is_like(other):
            raise WrongError(hint)
    if not is_like(expected):
        difference = (y - expected).abs().where(inside, 0)
        n, channel, row, column = (
            int(i) for i in torch.unravel_index(difference.argmax(), y.shape)
        )
        raise WrongError(
            f"y[{n}, {channel}, {row}, {column}] is {y[n, channel, row, column]:.3f}, expected "
            f"{expected[n, channel, row, column]:.3f}; {int(total[n, 0, row, column])} pixels of "
            "its window are valid."
        )
    if not y[empty].isfinite().all():
        raise WrongError(
            "y is NaN or infinite where the window is empty: 9/0. There y is 0: choose with "
            "torch.where."
        )
    if torch.allclose(y[empty], b.expand_as(y)[empty]):
        raise WrongError(
            "Where the window is empty y is the bias; it is 0 there (Eq. 1, second line)."
        )
    if y[empty].any():
        raise WrongError("Where the window is empty y is not 0 (Eq. 1, second line).")


@exercise("Exercise 3")
def filling_network(answer: Sequence[tuple[int, int]]) -> str:
    """answer: (kernel, stride) of each layer; at most six layers.

    They fill a hole of 100 pixels that does not touch the border.
    """
    if answer is None or answer is ... or (isinstance(answer, list | tuple) and not answer):
        raise NotAttemptedError
    if not isinstance(answer, list | tuple) or not all(
        isinstance(a, list | tuple) and len(a) == 2 for a in answer
    ):
        raise WrongError("Give a list of pairs, (kernel, stride): [(7, 2), (3, 1)].")
    try:
        answer = [(operator.index(kernel), operator.index(stride)) for kernel, stride in answer]
    except TypeError:
        raise WrongError("Kernels and strides are whole numbers: [(7, 2), (3, 1)].") from None
    if len(answer) > 6:
        raise WrongError(f"These are {len(answer)} layers; at most 6.")
    field, jump = 1, 1
    mask = torch.ones(64, 1, 512)  # the hole in 64 places: a stride may skip a pixel in one of them
    for place in range(64):
        mask[place, :, 200 + place : 300 + place] = 0
    for kernel, stride in answer:
        if kernel not in (3, 5, 7) or stride not in (1, 2):
            raise WrongError(
                f"({kernel}, {stride}): a kernel is 3, 5 or 7 pixels wide, a stride is 1 or 2."
            )
        field, jump = field + (kernel - 1) * jump, jump * stride
        conv = pconv.PartialConv1d(1, 1, kernel, stride, kernel // 2)
        mask = conv.window_ratio([mask], [1])[1]
    if not mask.all():
        strides = [stride for _, stride in answer]
        if jump == 1:
            why = "a stride of 2 doubles the steps of later layers"
        elif strides != sorted(strides, reverse=True):
            why = "a stride helps only the layers after it"
        elif len(answer) < 6:
            why = f"you have {6 - len(answer)} more"
        else:
            why = "the last windows have the largest steps"
        raise WrongError(
            f"A hole remains: the receptive field is {field} pixels, and the hole is 100. Hint: "
            f"{why}."
        )
    weights = sum(kernel**2 for kernel, _ in answer)
    corner = _widest_in_a_corner(answer)
    found = (
        f"{len(answer)} layers, a receptive field of {field} pixels, {weights} weights. "
        f"In a corner of the image a hole of {corner} pixels is filled, no larger one."
    )
    if len(answer) == 5:  # four layers of 7 with stride 2 see 91 pixels
        return f"{found} No network has fewer layers. " + (
            "With five, none less." if weights == 77 else "Fewer weights?"
        )
    return (
        f"{found} No network has fewer weights. Fewer layers?"
        if weights == 54
        else f"{found} Can it be fewer?"
    )


def _widest_in_a_corner(layers: Sequence[tuple[int, int]]) -> int:
    """The widest hole along a border that these layers fill, in pixels; it is the same in a corner.

    A window in a corner sees a valid pixel as soon as it reaches over one of the two edges.
    """
    widths = torch.arange(1, 256)
    mask = (torch.arange(512) >= widths[:, None]).float()[:, None]  # (widths, 1, 512)
    for kernel, stride in layers:
        conv = pconv.PartialConv1d(1, 1, kernel, stride, kernel // 2)
        mask = conv.window_ratio([mask], [1])[1]
    return int(mask.bool().all(2).sum())
