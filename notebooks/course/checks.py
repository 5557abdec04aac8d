"""Checks of the exercises: each says that an answer is right, what is wrong with it, or that there is none yet."""

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from skimage import data
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import pconv
from pconv.benchmark import saved_bytes


class _NotAttemptedError(Exception):
    pass


class _WrongError(Exception):
    """Its message is the hint."""


def _exercise(name: str) -> Callable:
    """A check that prints a line, of a function that raises _WrongError or returns what to say of a right answer."""

    def decorate(examine: Callable[..., str]) -> Callable[..., None]:
        @functools.wraps(examine)
        def check(answer) -> None:
            try:
                print(f"{name}: right. {examine(answer)}")
            except _NotAttemptedError:
                print(f"{name}: not attempted yet")
            except _WrongError as hint:
                print(f"{name}: not right yet. {hint}")

        return check

    return decorate


def _answered(result):
    """The result of a learner's function; a stub returns `...`, or nothing."""
    if result is None or result is ... or (isinstance(result, tuple) and all(part is ... for part in result)):
        raise _NotAttemptedError
    return result


# Notebook 01


@_exercise("Exercise 1")
def layers_at_the_border(answer: Callable[[int, int], int]) -> str:
    """answer(width, kernel): layers until a hole along one border of the image is full."""
    whole = True
    for width, kernel in ((7, 3), (1, 3), (4, 3), (6, 5), (7, 5), (12, 7), (13, 7)):
        given, right = _answered(answer(width, kernel)), _measured_at_the_border(width, kernel)
        case = f"{width} pixels, kernel {kernel}: {right} layers when measured, your answer is {given}."
        whole &= isinstance(given, int)
        if given == right:
            continue
        if given == -(-width // (kernel - 1)):
            raise _WrongError(
                f"{case} This is a hole with valid pixels on all sides; here they come from one side only."
            )
        if given == width // ((kernel - 1) // 2):
            raise _WrongError(f"{case} You round down: the last pixels need a whole layer too.")
        if given == 2 * width / (kernel - 1):
            raise _WrongError(f"{case} Layers are whole: round up.")
        if given == -(-width // kernel):
            raise _WrongError(f"{case} A layer does not advance by the whole window, only from its centre to its edge.")
        raise _WrongError(f"{case} By how many pixels does one layer move the edge of the hole?")
    if not whole:
        raise _WrongError("The values are right, but layers are a whole number: return an int.")
    return "From one side it takes about twice the layers."


def _measured_at_the_border(width: int, kernel: int) -> int:
    conv = pconv.PartialConv1d(1, 1, kernel, padding=kernel // 2)
    mask, layers = torch.ones(1, 1, width + 8), 0
    mask[..., :width] = 0
    while not mask.all():
        mask, layers = conv.window_ratio([mask], [1])[1], layers + 1
    return layers


@_exercise("Exercise 2")
def partial_conv(answer: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]) -> str:
    """answer(x, mask, weight, bias) -> y, new_mask: a 3x3 partial convolution, padding 1, without a loop."""
    x, mask, weight, bias = _example()
    conv = pconv.PartialConv2d(3, 4, 3, padding=1)
    conv.load_state_dict({"weight": weight, "bias": bias})
    with torch.no_grad():
        right, right_mask = conv(x, mask)
        result = _answered(answer(x.clone(), mask.clone(), weight.clone(), bias.clone()))
    if not (isinstance(result, tuple) and len(result) == 2 and all(isinstance(part, Tensor) for part in result)):
        raise _WrongError("Return two tensors: y, new_mask.")
    y, new_mask = result
    _examine_mask(new_mask.float(), mask, right_mask)
    if y.shape != right.shape:
        raise _WrongError(f"y has shape {tuple(y.shape)}, expected {tuple(right.shape)}: is the padding 1?")
    _examine_pixels(y, right, right_mask, x, mask, weight, bias)
    for value in (99.0, float("nan")):
        with torch.no_grad():
            other = answer(x.where(mask > 0, value), mask.clone(), weight.clone(), bias.clone())[0]
        if not torch.allclose(other, right, rtol=1e-4, atol=1e-4):
            if value == value:
                raise _WrongError("y depends on what stands in the holes (try 99): leave them out of the sum first.")
            raise _WrongError(
                "With NaN in the holes y is wrong: 0 · NaN is NaN, so select with torch.where, do not multiply."
            )
    return "Holes of 0, 99 and NaN give the same y, and an empty window gives 0."


def _example() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x (2, 3, 9, 10), mask with windows of 0 to 9 valid pixels, weight (4, 3, 3, 3), bias (4,); 0 in the holes."""
    generator = torch.Generator().manual_seed(0)
    mask = (torch.rand(2, 1, 9, 10, generator=generator) > 0.3).float()
    mask[:, :, 2:7, 3:8] = 0  # a hole with empty windows
    mask[:, :, 3:8, :3] = 1  # and windows without a hole
    x = torch.rand(2, 3, 9, 10, generator=generator) * mask
    return x, mask, torch.randn(4, 3, 3, 3, generator=generator), torch.randn(4, generator=generator)


def _examine_mask(new_mask: Tensor, mask: Tensor, right: Tensor) -> None:
    if new_mask.shape != right.shape:
        raise _WrongError(
            f"new_mask has shape {tuple(new_mask.shape)}, expected {tuple(right.shape)}, one for all features."
        )
    if not ((new_mask == 0) | (new_mask == 1)).all():
        raise _WrongError(
            f"new_mask holds values up to {new_mask.max():g}: it is 1 wherever sum(M) > 0, and 0 elsewhere."
        )
    if torch.equal(new_mask, mask):
        raise _WrongError("new_mask is the old mask: a pixel becomes valid if its window holds a valid one (Eq. 2).")
    if torch.equal(new_mask, 1 - right):
        raise _WrongError("new_mask is inverted: 1 = valid, 0 = hole.")
    if not torch.equal(new_mask, right):
        more = "more" if new_mask.sum() > right.sum() else "fewer"
        raise _WrongError(
            f"new_mask has {more} valid pixels than it should: ONE valid pixel in the 3x3 window is enough."
        )


def _examine_pixels(y: Tensor, right: Tensor, valid: Tensor, x: Tensor, mask: Tensor, weight, bias) -> None:
    """Compares y with what the usual mistakes would give, where the window held a valid pixel and where it did not."""
    total = F.conv2d(mask, torch.ones(1, 1, 3, 3), padding=1)
    inside, empty = (valid > 0).expand_as(y), (valid == 0).expand_as(y)
    features, b = F.conv2d(x, weight, padding=1), bias.view(1, -1, 1, 1)

    def is_like(other: Tensor) -> bool:
        return torch.allclose(y[inside], other[inside], rtol=1e-4, atol=1e-4)

    if not y[inside].isfinite().all():
        raise _WrongError("y is not finite where the window does hold valid pixels.")
    for other, hint in (
        (features + b, "The ratio is missing: multiply W(X·M) by sum(1)/sum(M)."),
        (features / total + b, "The ratio is 1/sum(M): it is sum(1)/sum(M), so 9/sum(M), and 1 where all is valid."),
        (features * 27 / total + b, "The ratio is 27/sum(M): the mask has one channel, so sum(1) is 9 as well."),
        ((features + b) * 9 / total, "The bias is scaled too: add it after the ratio (F.conv2d(..., bias=None))."),
        ((features + b) / total, "The ratio is 1/sum(M), and it scales the bias too: y = W(X·M) · 9/sum(M) + b."),
        (features * 9 / total, "The bias is missing."),
        (features * total / 9 + b, "The ratio is upside down: it grows as fewer pixels are valid."),
    ):
        if is_like(other):
            raise _WrongError(hint)
    if not is_like(right):
        difference = (y - right).abs().where(inside, 0)
        n, channel, row, column = (int(i) for i in torch.unravel_index(difference.argmax(), y.shape))
        raise _WrongError(
            f"y[{n}, {channel}, {row}, {column}] is {y[n, channel, row, column]:.3f}, expected "
            f"{right[n, channel, row, column]:.3f}; {int(total[n, 0, row, column])} pixels of its window are valid."
        )
    if not y[empty].isfinite().all():
        raise _WrongError("y is NaN or infinite where the window is empty: 9/0. There y is 0: choose with torch.where.")
    if torch.allclose(y[empty], b.expand_as(y)[empty]):
        raise _WrongError("Where the window is empty y is the bias; it is 0 there (Eq. 1, second line).")
    if y[empty].any():
        raise _WrongError("Where the window is empty y is not 0 (Eq. 1, second line).")


@_exercise("Exercise 3")
def filling_network(answer: Sequence[tuple[int, int]]) -> str:
    """answer: (kernel, stride) of each layer; at most six layers that fill a hole of 100 pixels, wherever it lies."""
    if answer is None or answer is ... or answer == []:
        raise _NotAttemptedError
    if not isinstance(answer, list | tuple) or not all(isinstance(a, list | tuple) and len(a) == 2 for a in answer):
        raise _WrongError("Give a list of pairs, (kernel, stride): [(7, 2), (3, 1)].")
    if len(answer) > 6:
        raise _WrongError(f"These are {len(answer)} layers; at most 6.")
    field, jump = 1, 1
    mask = torch.ones(64, 1, 512)  # the hole in 64 places: a stride may skip a pixel in one of them
    for place in range(64):
        mask[place, :, 200 + place : 300 + place] = 0
    for kernel, stride in answer:
        if kernel not in (3, 5, 7) or stride not in (1, 2):
            raise _WrongError(f"({kernel}, {stride}): a kernel is 3, 5 or 7 pixels wide, a stride is 1 or 2.")
        field, jump = field + (kernel - 1) * jump, jump * stride
        conv = pconv.PartialConv1d(1, 1, kernel, stride, kernel // 2)
        mask = conv.window_ratio([mask], [1])[1]
    if not mask.all():
        why = (
            "a stride helps only the layers after it" if jump > 1 else "a stride of 2 doubles the steps of later layers"
        )
        raise _WrongError(f"A hole remains: the receptive field is {field} pixels, and the hole is 100. Hint: {why}.")
    weights = sum(kernel**2 for kernel, _ in answer)
    found = f"{len(answer)} layers, a receptive field of {field} pixels, {weights} weights."
    if len(answer) == 5:  # four layers of 7 with stride 2 see 91 pixels
        return f"{found} No network has fewer layers. Fewer weights?"
    return f"{found} No network has fewer weights. Fewer layers?" if weights == 54 else f"{found} Can it be fewer?"


# Notebook 02


@_exercise("Exercise 1")
def levels_at_the_border(answer: Callable[[int, Sequence[int]], int]) -> str:
    """answer(width, kernels): levels, each of stride 2, until a hole along one border of the image is gone."""
    kernels, widths = [7, 5, 5, *[3] * 20], torch.tensor([1, 3, 4, 7, 8, 15, 16, 23, 24])
    given = [_answered(answer(width, tuple(kernels))) for width in widths.tolist()]
    mask, right = (torch.arange(64) >= widths[:, None]).float()[:, None], torch.ones_like(widths)
    for kernel in kernels:
        mask = pconv.PartialConv1d(1, 1, kernel, 2, kernel // 2).window_ratio([mask], [1])[1]
        right += (mask == 0).flatten(1).any(1)

    def first(reaches: list[int], wanted: Tensor = widths) -> list[int]:
        """For each width the first level at which the reaches of all layers so far add up to it."""
        return (1 + (torch.tensor(reaches).cumsum(0) < wanted[:, None]).sum(1)).tolist()

    sides = [(kernel - 1) // 2 for kernel in kernels]
    strided = [side * 2**layer for layer, side in enumerate(sides)]
    for wrong, hint in (
        (first([2 * s for s in strided]), "Twice too far: one side only, and a stride moves later windows only."),
        (first(sides), "Where are the strides? After n layers of stride 2 a step is 2^n pixels of the photo."),
        (first(strided, widths + 1), "A reach just as long as the hole is enough: it ends on the first valid pixel."),
        ((right - 1).tolist(), "Levels count from 1: the first layer leads to level 1."),
    ):
        if given == wrong:
            raise _WrongError(hint)
    for width, mine, level in zip(widths.tolist(), given, right.tolist()):
        if mine != level:
            raise _WrongError(f"Kernels 7, 5, 5, 3, 3, ...: {width} pixels are gone at level {level}, you say {mine}.")
    return f"{right[-1]} levels for 24 pixels; with stride 1 it would take {first(sides)[-1]} layers."


@_exercise("Exercise 2")
def window_sum(answer: Callable[[list[Tensor], list[int], int], Tensor]) -> str:
    """answer(masks, channels, kernel) -> (N, 1, H, W): valid features in each window; masks of 1 or C_i channels."""
    generator, channels, box = torch.Generator().manual_seed(0), [8, 5, 3], torch.ones(1, 1, 5, 5)
    masks = [(torch.rand(2, c, 11, 14, generator=generator) > 0.6).float() for c in (1, 5, 1)]
    a, b, c = (F.conv2d(mask.sum(1, keepdim=True), box, padding=2) for mask in masks)
    right = 8 * a + b + 3 * c
    with FlopCounterMode(display=False) as counter:
        given = _answered(answer(masks, channels, 5))
    shape = tuple(getattr(given, "shape", ()))
    if shape != right.shape:
        raise _WrongError(f"Shape {shape}, expected {tuple(right.shape)}: one sum a window, padding kernel // 2.")
    for wrong, hint in (
        (a + b + c, "A mask of one channel stands for C_i features: it counts C_i times."),
        (8 * a + 5 * b + 3 * c, "A mask of C_i channels has every feature in it: add them up, and that is all."),
        (right / 25, "This is the mean over the window, not the sum."),
    ):
        if torch.allclose(given.float(), wrong):
            raise _WrongError(hint)
    if not torch.allclose(given.float(), right):
        raise _WrongError(f"Of the first window {right[0, 0, 0, 0]:g} features are valid, not {given[0, 0, 0, 0]:g}.")
    times = counter.get_total_flops() / 2 / right.numel() / box.numel()
    if times > 1:
        raise _WrongError(f"Right sums, but {times:g} times the multiplications needed: add up, then convolve once.")
    return "One convolution with one channel, however many features there are."


@_exercise("Exercise 3")
def network_for_large_photos(answer: Sequence[int]) -> str:
    """answer: widths of a PConvUNet for photos of 1024 x 1024 pixels and holes of up to 200."""
    if answer is None or answer is ...:
        raise _NotAttemptedError
    if not (isinstance(answer, list | tuple) and answer and all(isinstance(n, int) and n >= 16 for n in answer)):
        raise _WrongError("Give a list of whole numbers: the features of each level, at least 16.")
    with torch.device("meta"):
        model = pconv.PConvUNet(widths=answer)
    weights = sum(parameter.numel() for parameter in model.parameters())
    columns, start = torch.arange(1024), torch.arange(300, 428)[:, None]  # a row of a photo, a hole in 128 places
    mask = ((columns < start) | (columns >= start + 200)).float()[:, None, None]
    left = int((model.mask_trace(mask)[len(answer) - 1][1] == 0).flatten(1).any(1).sum())
    if left:
        raise _WrongError(f"{len(answer)} levels: the hole is not gone in {left} of the 128 places that were tried.")
    if weights > 2e6:
        raise _WrongError(f"{weights / 1e6:.1f} million weights, at most 2: most lie where two levels are wide.")
    model, photo = pconv.PConvUNet(widths=answer).eval(), torch.rand(1, 3, 128, 128)
    kernels = sum(block.conv.weight.nbytes for block in (*model.encoder, *model.decoder))
    kept = 64 / 2**20 * (saved_bytes(lambda: model(photo, photo[:, :1] > 0.3)) - kernels)  # 64 are as large as one
    if kept > 400:
        raise _WrongError(f"{kept:.0f} MiB are kept, at most 400: the first levels have the most pixels.")
    return f"{len(answer)} levels, {weights / 1e6:.2f} million weights, {kept:.0f} MiB, {sum(answer)} features. More?"


# Notebook 04


def _told_apart(given, right: Tensor, mistakes: Sequence[tuple[Tensor, str]] = ()) -> None:
    """Raises the hint of the mistake that gives just this result, or says where it differs; silent if it is right."""
    if not isinstance(given, Tensor) or given.shape != right.shape:
        what = f"shape {tuple(given.shape)}" if isinstance(given, Tensor) else f"type {type(given).__name__}"
        raise _WrongError(f"The result has {what}, expected a tensor of shape {tuple(right.shape)}.")
    for other, hint in mistakes:
        if torch.allclose(given.float(), other, rtol=1e-4, atol=1e-6):
            raise _WrongError(hint)
    if not given.isfinite().all():
        raise _WrongError("The result is not finite: 0 · NaN is NaN, so select with torch.where, do not multiply.")
    if not torch.allclose(given.float(), right, rtol=1e-4, atol=1e-6):
        place = tuple(int(i) for i in torch.unravel_index((given - right).abs().argmax(), right.shape))
        raise _WrongError(f"The value at {place} is {given[place]:.5f}, expected {right[place]:.5f}.")


@_exercise("Exercise 1")
def gram_of_valid(answer: Callable[[Tensor, Tensor], Tensor]) -> str:
    """answer(features, mask): the Gram matrix of the valid positions."""
    features = torch.rand(2, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 1, 6, 7)
    mask[0, :, :, 4:], mask[1, :, :2] = 0, 0  # 24 and 28 of 42 positions are valid
    count, whole = mask.sum((1, 2, 3)).view(2, 1, 1), features.flatten(2)
    product, unmasked = (whole * mask.flatten(2)) @ whole.mT, whole @ whole.mT
    mistakes = (
        (product / (3 * 42), "You divide by C·H·W; only the valid positions count."),
        (product / count, "The division by C is missing."),
        (product, "The division is missing: by C times the number of valid positions."),
        (product / (3 * count.sum()), "You count the valid positions of the whole batch; every image has its own."),
        (unmasked / (3 * 42), "The mask is not used: this is the Gram matrix of all positions."),
        (unmasked / (3 * count), "You divide by the right count, but the product still sums over the holes."),
    )
    _told_apart(_answered(answer(features.clone(), mask.clone())), product / (3 * count), mistakes)
    _told_apart(answer(features.where(mask > 0, torch.nan), mask.clone()), product / (3 * count))
    return "Holes add nothing, not even NaN, and each image is divided by its own count."


@_exercise("Exercise 2")
def gram_gradient(answer: Callable[[Tensor, Tensor], Tensor]) -> str:
    """answer(features, A): the gradient of the features, where A is that of their Gram matrix."""
    features, a = torch.randn(2, 69, generator=torch.Generator().manual_seed(0)).split((60, 9), 1)
    features, a = features.reshape(2, 3, 4, 5), a.reshape(2, 3, 3)
    right = torch.func.vjp(lambda f: f.flatten(2) @ f.flatten(2).mT / 60, features)[1](a)[0]
    af, atf = (a @ features.flatten(2)).view_as(features), (a.mT @ features.flatten(2)).view_as(features)
    mistakes = (
        (af + atf, "The division by C·H·W is missing."),
        (af / 60, "This is A F / (C·H·W), one half of it: F is the right factor too, which gives Aᵀ F."),
        (atf / 60, "This is Aᵀ F / (C·H·W), one half of it: F is the left factor too, which gives A F."),
        (2 * af / 60, "2 A F is right only where A is symmetric: A + Aᵀ."),
    )
    _told_apart(_answered(answer(features.clone(), a.clone())), right, mistakes)
    return "It is autograd's gradient, with one product where autograd needs two."


@_exercise("Exercise 3")
def equal_shares(answer: Callable[[pconv.LossTerms], pconv.LossWeights]) -> str:
    """answer(terms): weights that give six terms the same share, and keep the total."""
    terms = pconv.LossTerms(*torch.tensor((0.02, 0.03, 1.2, 0.01, 0.004, 0.01, 2.0)))
    weights = _answered(answer(terms))
    if not isinstance(weights, pconv.LossWeights):
        raise _WrongError("Return a pconv.LossWeights.")
    if weights.ssim != 0:
        raise _WrongError(f"The weight of ssim is {float(weights.ssim):g}. That term is 0: give it no weight.")
    shares = {name: float(w * term) for name, w, term in zip(weights._fields[:6], weights, terms)}
    low, high = (choose(shares, key=shares.get) for choose in (min, max))
    if not math.isclose(shares[low], shares[high], rel_tol=1e-3):
        raise _WrongError(
            f"The share of {high} is larger than that of {low}. The smaller a term, the larger its weight."
        )
    total = sum(shares.values())
    if not math.isclose(total, terms.total, rel_tol=1e-3):
        raise _WrongError(f"The shares are equal, but they add up to {total:.3g}; the total was {terms.total:.3g}.")
    return "Six equal shares, and the same total."


# Notebook 03


@_exercise("Exercise 1")
def padding_ratio(answer: Callable[[int, int, int], tuple[float, float]]) -> str:
    """answer(kernel, padding, dilation): the ratio of the outermost pixel at an edge and in a corner."""
    for kernel, padding, dilation in ((3, 1, 1), (5, 2, 1), (7, 1, 1), (3, 2, 2), (5, 3, 2)):
        given = _answered(answer(kernel, padding, dilation))
        conv = pconv.PartialConv2d(1, 1, kernel, padding=padding, dilation=dilation)
        ratio = conv.window_ratio([torch.ones(1, 1, 40, 40)], [1])[0][0, 0]
        edge, corner = ratio[0, 20].item(), ratio[0, 0].item()
        outside = round(kernel - kernel / edge)  # pixels along one side of the window
        sides = (
            (kernel - padding, "Pixels of the window lie a dilation apart: fewer of them hang over."),
            (kernel - padding // dilation, "Round up: of the positions -3, -1, 1, ... two are outside."),
            (kernel - kernel // 2, "The window hangs over by its padding, which need not be half its width."),
        )
        results = (
            (edge, corner, ""),
            (1 / edge, 1 / corner, "The ratio is upside down: the fewer pixels are seen, the larger it is."),
            (edge, edge, "In a corner the window hangs over two sides."),
            (edge, kernel / (kernel - 2 * outside), "In a corner pixels outside both sides are counted twice."),
            *((kernel / seen, (kernel / seen) ** 2, hint) for seen, hint in sides),
        )
        measured = f"{edge:g} and {corner:g} when measured, your answer is {given}."
        close = (hint for *result, hint in results if np.shape(given) == (2,) and np.allclose(given, result, rtol=1e-5))
        if hint := next(close, measured):
            raise _WrongError(f"Kernel {kernel}, padding {padding}, dilation {dilation}: {hint}")
    return "The ratio in a corner is the square of that at an edge."


@_exercise("Exercise 2")
def partial_padding(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> str:
    """answer(x, weight, bias) -> y: a 3x3 convolution with a partial padding of 1, for images of any size."""
    whole, _, weight, bias = _example()
    b, right = bias.view(1, -1, 1, 1), None
    for x in (whole, whole[..., :4, 1:8]):
        total = F.conv2d(torch.ones_like(x[:1, :1]), torch.ones(1, 1, 3, 3), padding=1)
        features = F.conv2d(x, weight, padding=1)
        mistakes = (
            (features + b, "The ratio is missing: this is zero padding."),
            ((features + b) * 9 / total, "The bias is scaled too: add it after the ratio."),
            (features * 9 / total, "The bias is missing."),
            (features * total / 9 + b, "The ratio is upside down: it grows as fewer pixels are seen."),
            (features / total + b, "The ratio is 1/sum(M): it is 9/sum(M), and 1 inside."),
            (features * 3 / total + b, "With as many channels of ones as x has, sum(1) is 27: or take one channel."),
            (F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), weight) + b, "This is replicate padding."),
        )
        try:
            given = _answered(answer(x.clone(), weight.clone(), bias.clone()))
        except RuntimeError as error:
            if right is None:
                raise
            raise _WrongError(f"It fails for an image of another size: is a ratio kept? {error}") from None
        right = features * 9 / total + b
        _told_apart(given, right, mistakes)
    return "It needs no mask, and takes images of any size."


@_exercise("Exercise 3")
def fill_unknown(answer: Callable[[Tensor], Tensor]) -> str:
    """answer(values) -> filled: a disparity map (H, W) in pixels, NaN where it is unknown."""
    truth = torch.from_numpy(data.stereo_motorcycle()[2]).float()[::2, ::2]
    errors = []
    for seed in range(3):
        holes = pconv.random_holes(*truth.shape, ratio=(0.2, 0.25), rng=np.random.default_rng(seed))
        hidden = truth.isfinite() & torch.from_numpy(holes)
        known = truth.isfinite() & ~hidden
        given = _answered(answer(truth.where(known, torch.nan)))
        if not isinstance(given, Tensor) or given.shape != truth.shape:
            raise _WrongError(f"Return a tensor of shape {tuple(truth.shape)}, that of the values.")
        if left := int((~given.isfinite()).sum()):
            raise _WrongError(f"{left} pixels are not filled: they are NaN or infinite.")
        if not torch.allclose(given[known], truth[known]):
            raise _WrongError("Known pixels have changed: torch.where(values.isfinite(), values, filled).")
        rows, columns = distance_transform_edt(~known.numpy(), return_distances=False, return_indices=True)
        fills = given, truth[rows, columns], truth[known].mean()
        errors.append([(fill - truth)[hidden].abs().mean().item() for fill in fills])
    mine, nearest, mean = np.mean(errors, 0)
    found = f"{mine:.2f} pixels off on average; the nearest known pixel: {nearest:.2f}"
    if mine > mean:
        raise _WrongError(f"{found}, and the mean of all: {mean:.2f}. Does an unknown pixel count as 0 somewhere?")
    if mine >= nearest:
        raise _WrongError(f"{found}. Take more than one known pixel into account.")
    return f"{found}."
