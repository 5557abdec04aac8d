"""Checks of notebook 04: the Gram matrix of valid pixels, its gradient, equal shares of the loss."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

import pconv
from course.checks.exercise import WrongError, answered, exercise, tell_apart


@exercise("Exercise 1")
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
    tell_apart(answered(answer(features.clone(), mask.clone())), product / (3 * count), mistakes)
    tell_apart(answer(features.where(mask > 0, torch.nan), mask.clone()), product / (3 * count))
    return "Holes add nothing, not even NaN, and each image is divided by its own count."


@exercise("Exercise 2")
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
    tell_apart(answered(answer(features.clone(), a.clone())), right, mistakes)
    return "It is autograd's gradient, with one product where autograd needs two."


@exercise("Exercise 3")
def equal_shares(answer: Callable[[pconv.LossTerms], pconv.LossWeights]) -> str:
    """answer(terms): weights that give six terms the same share, and keep the total."""
    terms = pconv.LossTerms(*torch.tensor((0.02, 0.03, 1.2, 0.01, 0.004, 0.01, 2.0)))
    weights = answered(answer(terms))
    if not isinstance(weights, pconv.LossWeights):
        raise WrongError("Return a pconv.LossWeights.")
    if weights.ssim != 0:
        raise WrongError(f"The weight of ssim is {float(weights.ssim):g}. That term is 0: give it no weight.")
    shares = {name: float(w * term) for name, w, term in zip(weights._fields[:6], weights, terms)}
    low, high = (choose(shares, key=shares.get) for choose in (min, max))
    if not math.isclose(shares[low], shares[high], rel_tol=1e-3):
        raise WrongError(
            f"The share of {high} is larger than that of {low}. The smaller a term, the larger its weight."
        )
    total = sum(shares.values())
    if not math.isclose(total, terms.total, rel_tol=1e-3):
        raise WrongError(f"The shares are equal, but they add up to {total:.3g}; the total was {terms.total:.3g}.")
    return "Six equal shares, and the same total."
