"""The checks of notebook 05 tell a stub, a right answer and each usual mistake apart."""

import pytest
import torch
from course import checks

import pconv


def masked_gram(
    features, mask, positions=lambda mask: mask.sum((1, 2, 3)).view(-1, 1, 1), divide_by_c=True
):
    flat = torch.where(mask > 0, features, 0).flatten(2)
    return flat @ flat.mT / (features.shape[1] if divide_by_c else 1) / positions(mask)


def unmasked_gram(features, mask):
    return masked_gram(
        features, torch.ones_like(mask), lambda _: mask.sum((1, 2, 3)).view(-1, 1, 1)
    )


def in_place(features, mask):
    features[(mask == 0).expand_as(features)] = 0
    return masked_gram(features, mask)


@pytest.mark.parametrize("check", [checks.gram_of_valid, checks.gram_gradient])
@pytest.mark.parametrize("stub", [lambda *a: ..., lambda *a: None])
def test_notebook_05_stubs(check_output, check, stub):
    assert check_output(check, stub).endswith(": not attempted yet")
    assert "not attempted" in check_output(checks.equal_shares, stub)


@pytest.mark.parametrize("right", [masked_gram, lambda f, m: masked_gram(f.double(), m)])
def test_gram_of_valid_right(check_output, right):
    assert "Exercise 1: right." in check_output(checks.gram_of_valid, right)


@pytest.mark.parametrize(
    "answer, hint",
    [
        (lambda f, m: masked_gram(f, m, lambda m: m[0].numel()), "You divide by C·H·W"),
        (lambda f, m: masked_gram(f, m, divide_by_c=False), "The division by C is missing"),
        (lambda f, m: masked_gram(f, m, lambda m: 1, divide_by_c=False), "The division is missing"),
        (lambda f, m: masked_gram(f, m, lambda m: m.sum()), "the whole batch's"),
        (lambda f, m: pconv.gram_matrix(f), "The mask is not used"),
        (unmasked_gram, "still sums over the holes"),
        (
            lambda f, m: pconv.gram_matrix(f * m) * 42 / m.sum((1, 2, 3)).view(-1, 1, 1),
            "multiplying by the mask keeps it. Select with torch.where",
        ),
        (
            lambda f, m: masked_gram(f, m).sum(0),
            "shape (3, 3), expected a tensor of shape (2, 3, 3)",
        ),
        (lambda f, m: masked_gram(f.mT, m.mT).mT.tolist(), "type list"),
        (lambda f, m: masked_gram(f, m) - masked_gram(f, m).mean(), "expected"),
        (lambda f, m: masked_gram(f, m, lambda m: m[0].sum()), "the first image's count"),
        (lambda f, m: masked_gram(f, m) / f.shape[1], "by C twice"),
        (lambda f, m: masked_gram(f, 1 - m), "the Gram matrix of the holes"),
        (lambda f, m: masked_gram(f, m) * f.shape[1] / 3, "The value"),
        (
            lambda f, m: masked_gram(f, m, lambda m: m.sum((1, 2, 3)).view(-1, 1, 1) + 1e-3),
            "The value",
        ),
        (in_place, "It writes into what it is given: argument 1"),
        (lambda f, m: masked_gram(f, m).long(), "dtype torch.int64, expected torch.float32"),
        (lambda f, m: masked_gram(f, m) + 0j, "dtype torch.complex64, expected torch.float32"),
        (lambda f, m: masked_gram(f, m).numpy(), "type ndarray"),
        (lambda f, m: torch.where(m, f, 0), "It stops at `"),
        (lambda f, m: f.flatten(2) @ f.flatten(2).T, "`.T` reverses all the axes"),
        (lambda f: f, "It stops: TypeError"),
        (torch.ones(2, 3, 3), "Give the check the function itself, not Tensor"),
    ],
)
def test_gram_of_valid_wrong(check_output, answer, hint):
    text = check_output(checks.gram_of_valid, answer)
    assert text.startswith("Exercise 1: not right yet.") and hint in text
    assert "window" not in text  # there are none in a Gram matrix


def gradient(features, a, matrix=lambda a: a + a.mT, divisor=lambda n, c, h, w: c * h * w):
    return (matrix(a) @ features.flatten(2)).view_as(features) / divisor(*features.shape)


def autograd(features, a):
    gram = pconv.gram_matrix(features.requires_grad_())
    return torch.autograd.grad(gram, features, a)[0]


def image_by_image(features, a):
    return torch.stack([gradient(f[None], m[None])[0] for f, m in zip(features, a)])


def by_einsum(features, a):
    return torch.einsum("nij,njhw->nihw", a + a.mT, features) / features[0].numel()


def by_baddbmm(features, a):
    flat = features.flatten(2)
    alpha = 1 / flat[0].numel()
    return torch.baddbmm(flat, a + a.mT, flat, beta=0, alpha=alpha).view_as(features)


def by_convolution(features, a):
    """A 1x1 convolution with a group per image is a product of matrices, too."""
    n, c, h, w = features.shape
    weight = (a + a.mT).reshape(n * c, c, 1, 1)
    product = torch.nn.functional.conv2d(features.view(1, n * c, h, w), weight, groups=n)
    return product.view_as(features) / (c * h * w)


RIGHT_GRADIENTS = [gradient, image_by_image, by_einsum, by_baddbmm, by_convolution]


def by_broadcasting(features, a):
    matrix = (a + a.mT)[..., None]  # (N, C, C, 1)
    product = (matrix * features.flatten(2)[:, None]).sum(2)
    return product.view_as(features) / features[0].numel()


def by_numpy(features, a):
    product = (a + a.mT).numpy() @ features.flatten(2).numpy()
    return torch.from_numpy(product).view_as(features) / features[0].numel()


def transposed_all_axes(features, a):
    return gradient(features, a, lambda a: a + a.T)


def vjp_of_pconv(features, a):
    return torch.func.vjp(pconv.gram_matrix, features)[1](a)[0]


def vjp_of_a_product(features, a):
    def gram(f):
        return f.flatten(2) @ f.flatten(2).mT / f[0].numel()

    return torch.func.vjp(gram, features)[1](a)[0]


@pytest.mark.parametrize("right", RIGHT_GRADIENTS)
def test_gram_gradient_right(check_output, right):
    assert "Exercise 2: right." in check_output(checks.gram_gradient, right)


@pytest.mark.parametrize(
    "answer, hint",
    [
        (lambda f, a: gradient(f, a, divisor=lambda n, c, h, w: 1), "C·H·W is missing"),
        (lambda f, a: gradient(f, a, lambda a: a, lambda n, c, h, w: 1), "Then divide by C·H·W"),
        (
            lambda f, a: gradient(f, a, divisor=lambda n, c, h, w: h * w),
            "The division by C is missing",
        ),
        (
            lambda f, a: gradient(f, a, divisor=lambda n, c, h, w: n * c * h * w),
            "Too small by N, or by 2",
        ),
        (lambda f, a: gradient(f, a, divisor=lambda n, c, h, w: 60), "The value"),
        (
            lambda f, a: gradient(f, a, divisor=lambda n, c, h, w: c * c * h * w),
            "You divide by C twice",
        ),
        (
            lambda f, a: gradient(f, a, lambda a: a.mT, lambda n, c, h, w: 1),
            "This is Aᵀ F: F is the left factor too",
        ),
        (lambda f, a: gradient(f, a, lambda a: (a + a.mT) / 2), "Too small by N, or by 2"),
        (lambda f, a: gradient(f, a, lambda a: 2 * a.mT), "2 Aᵀ F is right only where"),
        (
            lambda f, a: gradient(f, a, lambda a: a) + gradient(f, a, lambda a: a.mT),
            "it takes 2 matrix products",
        ),
        (autograd, "it takes 2 matrix products"),
        (lambda f, a: gradient(f, a) * torch.inf, "does baddbmm read its first matrix?"),
        (lambda f, a: gradient(f, a.add_(a.mT.clone()), lambda a: a), "argument 2 has changed"),
        (lambda f, a: gradient(f, a, lambda a: a), "This is A F"),
        (lambda f, a: gradient(f, a, lambda a: a.mT), "This is Aᵀ F"),
        (lambda f, a: gradient(f, a, lambda a: 2 * a), "only where A is symmetric"),
        (lambda f, a: gradient(f, a).flatten(2), "shape (2, 3, 20)"),
        (by_broadcasting, "PyTorch ran no matrix product"),
        (by_numpy, "PyTorch ran no matrix product"),
        (transposed_all_axes, "`.T` reverses all the axes of a batch"),
        (vjp_of_pconv, "torch.func does not go through pconv.gram_matrix"),
        (vjp_of_a_product, "it takes 3 matrix products"),
        (lambda f, a: gradient(f, a).to(torch.complex64), "dtype torch.complex64"),
        (lambda f, a: (a + a.mT) @ f, "It stops at `"),
        (..., "Give the check the function itself, not ellipsis"),
    ],
)
def test_gram_gradient_wrong(check_output, answer, hint):
    text = check_output(checks.gram_gradient, answer)
    assert text.startswith("Exercise 2: not right yet.") and hint in text


def shares(terms, power=-1.0, total=True, ssim=0.0):
    weights = [float(term) ** power for term in terms[:6]]
    return pconv.LossWeights(
        *(w * float(terms.total) / 6 if total else w for w in weights), ssim=ssim
    )


@pytest.mark.parametrize(
    "right",
    [shares, lambda t: pconv.LossWeights(*(t.total / 6 / x for x in t[:6]))],  # tensors, too
)
def test_equal_shares_right(check_output, right):
    assert "Exercise 3: right." in check_output(checks.equal_shares, right)


@pytest.mark.parametrize(
    "answer, hint",
    [
        (lambda t: shares(t, power=1.0), "perceptual has a larger share than style_comp"),
        (lambda t: shares(t, power=-2.0), "style_comp 80.9; each should be 0.323"),
        (
            lambda t: shares(pconv.LossTerms(0.02, 0.03, 1.2, 0.01, 0.004, 0.01, 1.941)),
            "a larger share",
        ),
        (
            lambda t: pconv.LossWeights(*(float("nan") for _ in range(6)), ssim=0),
            "Not all weights are finite",
        ),
        (lambda t: shares(t, power=0.0), "The smaller a term, the larger its weight"),
        (lambda t: shares(t, total=False), "they add up to 6; the total was 1.94"),
        (lambda t: shares(t, ssim=float("nan")), "The weight of ssim is nan"),
        (lambda t: shares(t, ssim=1.0), "give it no weight"),
        (lambda t: list(shares(t)), "Return a pconv.LossWeights"),
        (lambda t: pconv.LossWeights(..., 1, 1, 1, 1, 1, 0), "Each weight is a number"),
        (lambda t: t, "Return a pconv.LossWeights"),
        (lambda t: dict(zip(t._fields, shares(t))), "Return a pconv.LossWeights"),
        (lambda t: pconv.LossWeights(*(1 / x for x in t)), "takes from 1 to 8 positional"),
        (
            lambda t: pconv.LossWeights(*(float(t.total) / 6 / x for x in (*t[:6], t.ssim))),
            "is inf",
        ),
        (lambda t: t.style, "has no attribute 'style'"),
        (7, "Give the check the function itself, not int"),
    ],
)
def test_equal_shares_wrong(check_output, answer, hint):
    text = check_output(checks.equal_shares, answer)
    assert text.startswith("Exercise 3: not right yet.") and hint in text
