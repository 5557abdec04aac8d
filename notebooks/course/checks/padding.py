"""Checks of notebook 03.

The ratio at the border, padding by partial convolution, filling unknown values.
"""

from collections.abc import Callable

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from skimage import data
from torch import Tensor
from torch.nn import functional as F

import pconv
from course.checks.exercise import WrongError, call_answer, compare_result, exercise, require_answer
from course.checks.partial_convolution import example


@exercise("Exercise 1")
def padding_ratio(answer: Callable[[int, int, int], tuple[float, float]]) -> str:
    """answer(kernel, padding, dilation): the ratio at an edge and in a corner.

    It is that of the outermost pixel.
    """
    for kernel, padding, dilation in (
        (5, 2, 1),
        (3, 1, 1),
        (7, 1, 1),
        (3, 2, 2),
        (5, 3, 2),
        (3, 1, 3),
        (7, 5, 3),
    ):
        actual = require_answer(answer(kernel, padding, dilation))
        try:
            actual = tuple(n.item() if isinstance(n, Tensor) else float(n) for n in actual)
        except (TypeError, ValueError):
            raise WrongError("Return two numbers: the ratio at an edge, and in a corner.") from None
        conv = pconv.PartialConv2d(1, 1, kernel, padding=padding, dilation=dilation)
        ratio = conv.window_ratio([torch.ones(1, 1, 40, 40)], [1])[0][0, 0]
        edge, corner = ratio[0, 20].item(), ratio[0, 0].item()
        outside = round(kernel - kernel / edge)  # pixels along one side of the window
        places = ", ".join(str(dilation * i - padding) for i in range(kernel))
        sides = (
            (
                kernel - padding,
                "Pixels of the window lie a dilation apart: fewer of them hang over.",
            ),
            (
                kernel - padding // dilation,
                f"Round up: of the positions {places} outside are {outside}.",
            ),
            (
                kernel - kernel // 2,
                "The window hangs over by its padding, which need not be half its width.",
            ),
        )
        results = (
            (edge, corner, ""),
            (
                1 / edge,
                1 / corner,
                "The ratio is upside down: the fewer pixels are seen, the larger it is.",
            ),
            (edge, edge, "In a corner the window hangs over two sides."),
            (
                edge,
                kernel / (kernel - 2 * outside),
                "In a corner pixels outside both sides are counted twice.",
            ),
            *((kernel / seen, (kernel / seen) ** 2, hint) for seen, hint in sides),
        )
        measured = f"{edge:g} and {corner:g} when measured, your answer is {actual}."
        close = (
            hint
            for *result, hint in results
            if len(actual) == 2 and np.allclose(actual, result, rtol=1e-5)
        )
        if hint := next(close, measured):
            raise WrongError(f"Kernel {kernel}, padding {padding}, dilation {dilation}: {hint}")
    return "The ratio in a corner is the square of that at an edge."


@exercise("Exercise 2")
def partial_padding(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> str:
    """answer(x, weight, bias) -> y: a 3x3 convolution with a partial padding of 1.

    Images may have any size.
    """
    whole, _, weights, bias = example()
    b, expected = bias.view(1, -1, 1, 1), None
    for x, weight in (
        (whole, weights),
        (whole[..., :4, 1:8], weights),
        (whole[:, 1:2, 4:5, 2:9], weights[:, :1]),
    ):
        total = F.conv2d(torch.ones_like(x[:1, :1]), torch.ones(1, 1, 3, 3), padding=1)
        features = F.conv2d(x, weight, padding=1)
        seen = F.conv2d((x != 0).any(1, keepdim=True).float(), torch.ones(1, 1, 3, 3), padding=1)
        mistakes = (
            (features + b, "The ratio is missing: this is zero padding."),
            ((features + b) * 9 / total, "The bias is scaled too: add it after the ratio."),
            (features * 9 / total, "The bias is missing."),
            (features, "The ratio is missing, and the bias: this is zero padding."),
            (
                features * total / 9 + b,
                "The ratio is upside down: it grows as fewer pixels are seen.",
            ),
            (features / total + b, "The ratio is 1/sum(M): it is 9/sum(M), and 1 inside."),
            (
                features * 3 / total + b,
                "The ratio is three times too small: sum(1) is 9 for one channel, 27 for three.",
            ),
            (
                features * 27 / total + b,
                "sum(1) is 9 for each channel of ones: one channel, or as many as x has.",
            ),
            (
                features * 9 / seen + b,
                "A black pixel is known: only what lies outside the image is a hole.",
            ),
            (
                features * 9 / seen.clamp(min=1) + b,
                "A black pixel is known: only what lies outside the image is a hole.",
            ),
            (
                F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), weight) + b,
                "This is replicate padding.",
            ),
            (
                (features + b) * 9 / total + b,
                "The bias is there twice, once scaled: convolve without it.",
            ),
        )
        try:
            actual = call_answer(answer, x, weight, bias)
        except (RuntimeError, ValueError, IndexError) as error:
            if expected is None:
                raise
            raise WrongError(
                f"It fails for {tuple(x.shape)}: is a ratio kept, or a size typed in? {error}"
            ) from None
        expected = features * 9 / total + b
        compare_result(actual, expected, mistakes)
    return "It needs no mask, and takes images of any size."


@exercise("Exercise 3")
def fill_unknown(answer: Callable[[Tensor], Tensor]) -> str:
    """answer(values) -> filled: a disparity map (H, W) in pixels, NaN where it is unknown."""
    truth = torch.from_numpy(data.stereo_motorcycle()[2]).float()[::2, ::2]
    errors = []
    for seed in range(10):
        holes = pconv.random_holes(*truth.shape, ratio=(0.2, 0.25), rng=np.random.default_rng(seed))
        hidden = truth.isfinite() & torch.from_numpy(holes)
        known = truth.isfinite() & ~hidden
        actual = require_answer(answer(truth.where(known, torch.nan)))
        if not isinstance(actual, Tensor | np.ndarray) or actual.shape != truth.shape:
            raise WrongError(f"Return a tensor of shape {tuple(truth.shape)}, that of the values.")
        actual = torch.as_tensor(actual).detach().to("cpu", truth.dtype)
        if left := int((~actual.isfinite()).sum()):
            raise WrongError(f"{left} pixels are not filled: they are NaN or infinite.")
        if not torch.allclose(actual[known], truth[known]):
            raise WrongError(
                "Known pixels have changed: torch.where(values.isfinite(), values, filled)."
            )
        rows, columns = distance_transform_edt(
            ~known.numpy(), return_distances=False, return_indices=True
        )
        fills = actual, truth[rows, columns], torch.zeros(())
        errors.append([(fill - truth)[hidden].abs().mean().item() for fill in fills])
    mine, nearest, zeros = np.mean(errors, 0)
    better = sum(errors_of[0] < errors_of[1] for errors_of in errors)
    result = (
        f"{mine:.2f} pixels off on average; the nearest known pixel: {nearest:.2f}; "
        f"better with {better} of 10 masks"
    )
    if mine == 0:
        raise WrongError(
            "Nothing is off: what was hidden has been looked up. Fill it from what is known."
        )
    if mine > 0.9 * zeros:
        raise WrongError(f"{result}. Does an unknown pixel count as 0 somewhere?")
    if mine == nearest:
        raise WrongError(f"{result}. Take more than one known pixel into account.")
    if mine > nearest or better < 7:
        raise WrongError(
            f"{result}: at least 7. The nearest pixels know most; average close to the hole, keep "
            "edges."
        )
    return f"{result}."
