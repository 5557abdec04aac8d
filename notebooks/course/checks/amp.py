"""Checks of notebook 07: five mistakes of public re-implementations, fixed."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import pconv
from course.checks.exercise import WrongError, compare_result, exercise, require_answer


def _example(mask_channels: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """x, mask, weight, bias; W (x ⊙ M) and sum(M) of every window, some of which are empty."""
    x, weight, bias = torch.randn(454, generator=torch.Generator().manual_seed(0)).split(
        (336, 108, 10)
    )
    x, weight, bias = x.reshape(2, 3, 7, 8), weight.reshape(4, 3, 3, 3), bias[:4]
    mask = (
        torch.rand(2, mask_channels, 7, 8, generator=torch.Generator().manual_seed(1)) > 0.4
    ).float()
    mask[0, :, :4, :4] = 0
    total = F.conv2d(mask, torch.ones(1, mask_channels, 3, 3), padding=1)
    return x, mask, weight, bias, F.conv2d(x * mask, weight, padding=1), total


@exercise("Exercise 1a")
def renormalised(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> str:
    """answer(x, mask, weight): W (x ⊙ M) sum(1) / sum(M).

    The mask has one channel per feature.
    """
    x, mask, weight, _, y, total = _example(3)
    expected = torch.where(total > 0, 27 * y / total, 0)
    mistakes = (
        (
            expected / 27,
            "This is still 1 / sum(M). A window without a hole must give W X: sum(1) is missing.",
        ),
        (
            expected / 3,
            "sum(1) is not 9: the sum runs over three features, and so does the size of the "
            "window.",
        ),
        (y, "Nothing is renormalised: this is W (X ⊙ M)."),
        (27 * y / total.clamp(min=1) ** 2, "The sum divides twice."),
        (4 * expected, "sum(1) is that of one filter: not the size of all the weights."),
        (
            expected * F.conv2d(torch.ones_like(x), torch.ones(1, 3, 3, 3), padding=1) / 27,
            "At the border sum(1) is too small: it counts the whole window, padding too, for "
            "padding is a hole.",
        ),
    )
    compare_result(require_answer(answer(x.clone(), mask.clone(), weight)), expected, mistakes)
    compare_result(answer(x.where(mask > 0, torch.nan), mask.clone(), weight), expected)
    return "Without a hole it is the ordinary convolution, and an empty window gives 0."


@exercise("Exercise 1b")
def ratio_once(answer: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> str:
    """answer(x, mask, weight, bias): Eq. 1 with a bias, for a mask of one channel."""
    x, mask, weight, bias, y, total = _example(1)
    ratio, valid, b = 9 / total.clamp(min=1), total > 0, bias.view(1, -1, 1, 1)
    expected = torch.where(valid, y * ratio + b, 0)
    mistakes = (
        (
            torch.where(valid, ((y + b) * ratio - b) * ratio + b, 0),
            "The ratio is still applied twice.",
        ),
        (
            torch.where(valid, y * ratio**2 + b, 0),
            "The bias is right, but the ratio is still applied twice.",
        ),
        (
            torch.where(valid, (y + b) * ratio, 0),
            "Once, but to the bias, too: no part of it is missing in a hole.",
        ),
        (torch.where(valid, y * ratio, 0), "The bias is lost."),
        (
            torch.where(valid, y * ratio, 0) + b,
            "An empty window gives 0 (Eq. 1), yours gives the bias.",
        ),
    )
    compare_result(
        require_answer(answer(x.clone(), mask.clone(), weight, bias)), expected, mistakes
    )
    compare_result(answer(x.where(mask > 0, torch.nan), mask.clone(), weight, bias), expected)
    return "Once, to the sum over the pixels; then the bias; and 0 where nothing was seen."


@exercise("Exercise 2a")
def ratio_of_this_mask(answer: Callable[[Tensor], Tensor]) -> str:
    """answer(mask): 9 / sum(M) of every 3x3 window, 0 where it is empty.

    It must not depend on the masks that came before.
    """
    masks = [
        (torch.rand(2, 1, 7, 8, generator=torch.Generator().manual_seed(s)) > 0.7).float()
        for s in range(3)
    ]
    sums = [F.conv2d(mask, torch.ones(1, 1, 3, 3), padding=1) for mask in masks]
    rights = [torch.where(total > 0, 9 / total, 0) for total in sums]
    stale = "This is the ratio of another mask: of the same size, but with other holes."
    reused = (
        "The mask was overwritten, as by a loader that reuses its memory: its id or address is no "
        "key either."
    )
    mask, others = masks[0].clone(), [(rights[1], stale), (rights[2], stale)]
    compare_result(require_answer(answer(mask)), rights[0], [*others, (sums[0], "This is sum(M).")])
    compare_result(answer(masks[1]), rights[1], [(rights[0], stale)])
    compare_result(
        answer(masks[1].flip(3)),
        rights[1].flip(3),
        [(rights[1], "As many holes, but in other places.")],
    )
    compare_result(
        answer(mask.copy_(masks[2])), rights[2], [(rights[0], reused), (rights[1], stale)]
    )
    return "Four masks of one size, four ratios."


@exercise("Exercise 2b")
def composite_and_hole_l1(answer: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]) -> str:
    """answer(output, photo, mask): the composite, and the L1 of the holes.

    The L1 is a mean over all elements.
    """
    output, photo = torch.rand(2, 2, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 1, 6, 7)
    mask[0, :, 1:4, 2:6], mask[1, :, 2:, :2] = 0, 0
    actual = require_answer(answer(output.clone(), photo.clone(), mask.clone()))
    if not (isinstance(actual, tuple) and len(actual) == 2):
        raise WrongError("Return two tensors: the composite and the loss.")
    if actual[0] is ...:
        raise WrongError("The composite is not attempted yet.")
    swapped = "The output stands where the photo is known: a mask of 1 means valid, in every line."
    compare_result(
        actual[0],
        torch.where(mask > 0, photo, output),
        [(torch.where(mask > 0, output, photo), swapped)],
    )
    if actual[1] is ...:
        raise WrongError("The composite is right; hole_l1 is not attempted yet.")
    difference = (output - photo).abs()
    expected, valid = (difference * (1 - mask)).mean(), (difference * mask).mean()
    mistakes = (
        (
            torch.zeros(()),
            "The composite is right, the loss is 0: it looks where composite and photo are the "
            "same.",
        ),
        (valid, "The composite is right, but this is the loss of the valid pixels."),
        (difference.mean(), "The composite is right, but this is the loss of all pixels."),
        (
            expected * mask.numel() / (1 - mask).sum(),
            "You divide by the pixels of the holes; the paper by all of them.",
        ),
    )
    compare_result(actual[1], expected, mistakes)
    return "One meaning of the mask, and the loss is that of what was painted."


@exercise("Exercise 3")
def hole_loss(answer: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> str:
    """answer(model, photo, mask): the L1 of the holes.

    The convolutions run in float16, the loss in float32.
    """
    photo, mask, ran_in = torch.ones(1, 3, 192, 192), torch.zeros(1, 1, 192, 192), []
    mask[..., :16] = 1
    torch.manual_seed(0)
    model = pconv.PConvUNet(widths=(4,))
    model.encoder[0].conv.register_forward_hook(
        lambda module, inputs, output: ran_in.append(output[0].dtype)
    )
    actual = require_answer(answer(model, photo, mask))
    if not isinstance(actual, Tensor) or actual.numel() != 1:
        raise WrongError("Return the loss, a tensor with one value.")
    if ran_in[-1:] != [torch.float16]:
        raise WrongError(
            "The convolutions did not run in float16: the model belongs inside autocast."
        )
    if actual.dtype != torch.float32:
        inf = (
            "inf: float16 ends at 65504, and the sum over the pixels does not. "
            if actual.isinf()
            else ""
        )
        raise WrongError(
            f"{inf}The loss is {actual.dtype}. On a CPU autocast leaves `sum` in half: cast "
            "before it."
        )
    if not actual.isfinite():
        raise WrongError(
            f"The loss is {actual.item()}: what is cast to float32 after the sum has overflowed "
            "before."
        )
    if not actual.requires_grad:
        raise WrongError("The value is finite, but no gradient leads back to the model.")
    with torch.autocast("cpu", torch.float16), torch.no_grad():
        difference = (model(photo, mask).float() - photo).abs()
    expected = (difference * (1 - mask)).mean()
    if torch.allclose(actual, expected * mask.numel() / (1 - mask).sum(), rtol=1e-3):
        raise WrongError("You divide by the pixels of the holes; the paper divides by all of them.")
    if not torch.allclose(actual, expected, rtol=1e-3):
        raise WrongError(f"The loss is {actual.item():.4f}, expected {expected.item():.4f}.")
    return "Half precision where it is fast, single where it adds up."
