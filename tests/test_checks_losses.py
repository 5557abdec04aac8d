"""The checks of notebook 04 tell a stub, a right answer and each usual mistake apart."""

import pytest
import torch
from course import checks

import pconv


def masked_gram(features, mask, positions=lambda mask: mask.sum((1, 2, 3)).view(-1, 1, 1), divide_by_c=True):
    flat = torch.where(mask > 0, features, 0).flatten(2)
    return flat @ flat.mT / (features.shape[1] if divide_by_c else 1) / positions(mask)


def unmasked_gram(features, mask):
    return masked_gram(features, torch.ones_like(mask), lambda _: mask.sum((1, 2, 3)).view(-1, 1, 1))


@pytest.mark.parametrize("check", [checks.gram_of_valid, checks.gram_gradient])
@pytest.mark.parametrize("stub", [lambda *a: ..., lambda *a: None])
def test_notebook_04_stubs(said, check, stub):
    assert said(check, stub).endswith(": not attempted yet") and "not attempted" in said(checks.equal_shares, stub)


@pytest.mark.parametrize("right", [masked_gram, lambda f, m: masked_gram(f.double(), m)])
def test_gram_of_valid_right(said, right):
    assert "Exercise 1: right." in said(checks.gram_of_valid, right)


@pytest.mark.parametrize(
    "answer, hint",
    [
        (lambda f, m: masked_gram(f, m, lambda m: m[0].numel()), "You divide by C·H·W"),
        (lambda f, m: masked_gram(f, m, divide_by_c=False), "The division by C is missing"),
        (lambda f, m: masked_gram(f, m, lambda m: 1, divide_by_c=False), "The division is missing"),
        (lambda f, m: masked_gram(f, m, lambda m: m.sum()), "of the whole batch"),
        (lambda f, m: pconv.gram_matrix(f), "The mask is not used"),
        (unmasked_gram, "still sums over the holes"),
        (lambda f, m: pconv.gram_matrix(f * m) * 42 / m.sum((1, 2, 3)).view(-1, 1, 1), "select with torch.where"),
        (lambda f, m: masked_gram(f, m).sum(0), "shape (3, 3), expected a tensor of shape (2, 3, 3)"),
        (lambda f, m: masked_gram(f.mT, m.mT).mT.tolist(), "type list"),
        (lambda f, m: masked_gram(f, m) - masked_gram(f, m).mean(), "expected"),
    ],
)
def test_gram_of_valid_wrong(said, answer, hint):
    text = said(checks.gram_of_valid, answer)
    assert text.startswith("Exercise 1: not right yet.") and hint in text


def gradient(features, a, matrix=lambda a: a + a.mT, divisor=60):
    return (matrix(a) @ features.flatten(2)).view_as(features) / divisor


def autograd(features, a):
    gram = pconv.gram_matrix(features.requires_grad_())
    return torch.autograd.grad(gram, features, a)[0]


@pytest.mark.parametrize("right", [gradient, autograd])
def test_gram_gradient_right(said, right):
    assert "Exercise 2: right." in said(checks.gram_gradient, right)


@pytest.mark.parametrize(
    "answer, hint",
    [
        (lambda f, a: gradient(f, a, divisor=1), "C·H·W is missing"),
        (lambda f, a: gradient(f, a, lambda a: a), "This is A F"),
        (lambda f, a: gradient(f, a, lambda a: a.mT), "This is Aᵀ F"),
        (lambda f, a: gradient(f, a, lambda a: 2 * a), "only where A is symmetric"),
        (lambda f, a: gradient(f, a, divisor=20), "expected"),
        (lambda f, a: gradient(f, a).flatten(2), "shape (2, 3, 20)"),
    ],
)
def test_gram_gradient_wrong(said, answer, hint):
    text = said(checks.gram_gradient, answer)
    assert text.startswith("Exercise 2: not right yet.") and hint in text


def shares(terms, power=-1.0, total=True, ssim=0.0):
    weights = [float(term) ** power for term in terms[:6]]
    return pconv.LossWeights(*(w * float(terms.total) / 6 if total else w for w in weights), ssim=ssim)


def test_equal_shares_right(said):
    assert "Exercise 3: right." in said(checks.equal_shares, shares)


@pytest.mark.parametrize(
    "answer, hint",
    [
        (lambda t: shares(t, power=1.0), "The share of perceptual is larger"),
        (lambda t: shares(t, power=0.0), "The smaller a term, the larger its weight"),
        (lambda t: shares(t, total=False), "they add up to 6; the total was 2"),
        (lambda t: shares(t, ssim=float("nan")), "The weight of ssim is nan"),
        (lambda t: shares(t, ssim=1.0), "give it no weight"),
        (lambda t: list(shares(t)), "Return a pconv.LossWeights"),
    ],
)
def test_equal_shares_wrong(said, answer, hint):
    text = said(checks.equal_shares, answer)
    assert text.startswith("Exercise 3: not right yet.") and hint in text
