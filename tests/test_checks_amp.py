"""The checks of notebook 07 tell a stub, a right answer and each usual mistake apart."""

import pytest
import torch
from course import checks
from torch.nn import functional as F

ALL = [checks.renormalised, checks.ratio_once, checks.ratio_of_this_mask]
ALL += [checks.composite_and_hole_l1, checks.hole_loss]


@pytest.mark.parametrize("check", ALL)
@pytest.mark.parametrize("stub", [lambda *a: ..., lambda *a: None, lambda *a: (..., ...)])
def test_notebook_07_stubs(check_output, check, stub):
    assert check_output(check, stub).endswith(": not attempted yet")


def sums(x, mask, weight):
    y = F.conv2d(torch.where(mask > 0, x, 0), weight, padding=1)
    return y, F.conv2d(mask, torch.ones(1, mask.shape[1], 3, 3), padding=1)


def renormalise(x, mask, weight, window=27):
    y, total = sums(x, mask, weight)
    return torch.where(total > 0, y * window / total, 0)


def test_renormalised_right(check_output):
    assert "Exercise 1a: right." in check_output(checks.renormalised, renormalise)
    assert "right." in check_output(
        checks.renormalised, lambda x, m, w: renormalise(x, m, w, w[0].numel())
    )


@pytest.mark.parametrize(
    "answer, hint",
    [
        (lambda x, m, w: renormalise(x, m, w, 1), "still 1 / sum(M)"),
        (lambda x, m, w: renormalise(x, m, w, 9), "sum(1) is not 9"),
        (lambda x, m, w: sums(x, m, w)[0], "Nothing is renormalised"),
        (lambda x, m, w: renormalise(x, m, w) / sums(x, m, w)[1].clamp(min=1), "divides twice"),
        (lambda x, m, w: sums(x, m, w)[0] * 27 / sums(x, m, w)[1], "not finite"),
        (
            lambda x, m, w: renormalise(x, m, w) + 0 * (x * m).sum(),
            "not finite",
        ),  # keeps the NaN of the holes
        (lambda x, m, w: renormalise(x, m, w, w.numel()), "not the size of all the weights"),
        (
            lambda x, m, w: renormalise(
                x, m, w, sums(torch.ones_like(x), torch.ones_like(x), w)[1]
            ),
            "padding is a hole",
        ),
        (lambda x, m, w: renormalise(x, m[:, :1], w), "expected"),
        (lambda x, m, w: renormalise(x, m, w)[0], "expected a tensor of shape (2, 4, 7, 8)"),
    ],
)
def test_renormalised_wrong(check_output, answer, hint):
    text = check_output(checks.renormalised, answer)
    assert text.startswith("Exercise 1a: not right yet.") and hint in text


def with_bias(
    x, mask, weight, bias, power=1, scale_bias=False, keep_bias=True, everywhere=False, wild=False
):
    y, total = sums(x, mask, weight)
    ratio, b = (9 / total.clamp(min=1)) ** power, bias.view(1, -1, 1, 1) * keep_bias
    y = (
        ((y + b) * ratio - b) * ratio + b
        if wild
        else (y + b) * ratio
        if scale_bias
        else y * ratio + b
    )
    return torch.where(total > 0, y, b if everywhere else 0)


def test_ratio_once_right(check_output):
    assert "Exercise 1b: right." in check_output(checks.ratio_once, with_bias)


@pytest.mark.parametrize(
    "mistake, hint",
    [
        ({"wild": True}, "The ratio is still applied twice."),
        ({"power": 2}, "The bias is right, but the ratio is still applied twice."),
        ({"scale_bias": True}, "to the bias, too"),
        ({"keep_bias": False}, "The bias is lost"),
        ({"everywhere": True}, "An empty window gives 0"),
        ({"power": 3}, "expected"),
    ],
)
def test_ratio_once_wrong(check_output, mistake, hint):
    text = check_output(checks.ratio_once, lambda *inputs: with_bias(*inputs, **mistake))
    assert text.startswith("Exercise 1b: not right yet.") and hint in text


def ratio_of(mask):
    total = F.conv2d(mask, torch.ones(1, 1, 3, 3), padding=1)
    return torch.where(total > 0, 9 / total, 0)


def cached(key):
    cache = {}

    def answer(mask):
        if key(mask) not in cache:
            cache[key(mask)] = ratio_of(mask)
        return cache[key(mask)]

    return answer


def test_ratio_of_this_mask_right(check_output):
    assert "Exercise 2a: right." in check_output(checks.ratio_of_this_mask, ratio_of)
    assert "right." in check_output(
        checks.ratio_of_this_mask, cached(lambda mask: tuple(mask.flatten().tolist()))
    )


@pytest.mark.parametrize(
    "answer, hint",
    [
        (cached(lambda mask: mask.shape), "the same size, but with other holes"),
        (
            cached(lambda mask: (mask.shape, float(mask.sum()))),
            "As many holes, but in other places",
        ),
        (cached(id), "no key either"),
        (cached(lambda mask: mask.data_ptr()), "no key either"),
        (lambda mask: F.conv2d(mask, torch.ones(1, 1, 3, 3), padding=1), "This is sum(M)"),
        (lambda mask: 9 / F.conv2d(mask, torch.ones(1, 1, 3, 3), padding=1), "not finite"),
    ],
)
def test_ratio_of_this_mask_wrong(check_output, answer, hint):
    text = check_output(checks.ratio_of_this_mask, answer)
    assert text.startswith("Exercise 2a: not right yet.") and hint in text


def test_a_cache_filled_by_an_earlier_run_is_noticed(check_output):
    answer = cached(lambda mask: mask.shape)
    assert "other holes" in check_output(checks.ratio_of_this_mask, answer)
    answer(torch.ones(2, 1, 7, 8))
    assert "not right yet" in check_output(checks.ratio_of_this_mask, answer)


def composite_and_l1(output, photo, mask, keep=None, count=None):
    composite = torch.where((mask if keep is None else keep(mask)) > 0, photo, output)
    where = 1 - mask if count is None else count(mask)
    return composite, (where * (output - photo).abs()).mean()


def test_composite_and_hole_l1_right(check_output):
    assert "Exercise 2b: right." in check_output(checks.composite_and_hole_l1, composite_and_l1)


@pytest.mark.parametrize(
    "answer, hint",
    [
        (
            lambda o, p, m: composite_and_l1(o, p, m, keep=lambda m: 1 - m),
            "The output stands where the photo is known",
        ),
        (lambda o, p, m: (torch.where(m > 0, p, o), torch.zeros(())), "the loss is 0"),
        (
            lambda o, p, m: composite_and_l1(o, p, m, count=lambda m: m),
            "the loss of the valid pixels",
        ),
        (lambda o, p, m: composite_and_l1(o, p, m, count=lambda m: 1), "the loss of all pixels"),
        (
            lambda o, p, m: composite_and_l1(o, p, m, count=lambda m: (1 - m) / (1 - m).mean()),
            "the paper by all of",
        ),
        (lambda o, p, m: torch.where(m > 0, p, o), "Return two tensors"),
        (lambda o, p, m: (torch.where(m > 0, p, o), ...), "hole_l1 is not attempted yet"),
        (lambda o, p, m: (..., (o - p).abs().mean()), "The composite is not attempted yet"),
        (lambda o, p, m: (o, (o - p).abs().mean()), "expected"),
    ],
)
def test_composite_and_hole_l1_wrong(check_output, answer, hint):
    text = check_output(checks.composite_and_hole_l1, answer)
    assert text.startswith("Exercise 2b: not right yet.") and hint in text


def hole_loss(
    model, photo, mask, half=True, cast=torch.Tensor.float, count=torch.ones_like, inside=False
):
    with torch.autocast("cpu", dtype=torch.float16, enabled=half):
        output = model(photo, mask)
        if inside:
            return ((1 - mask).half() * (output - photo.half()).abs()).sum() / output.numel()
    output = cast(output)
    difference = (1 - mask).to(output.dtype) * (output - photo.to(output.dtype)).abs()
    return difference.sum() / (difference.numel() * count(mask).mean())


def test_hole_loss_right(check_output):
    assert "Exercise 3: right." in check_output(checks.hole_loss, hole_loss)


@pytest.mark.parametrize(
    "answer, hint",
    [
        (lambda *a: hole_loss(*a, cast=lambda t: t).half(), "inf: float16 ends at 65504"),
        (lambda *a: hole_loss(*a, inside=True), "On a CPU autocast leaves `sum` in half"),
        (lambda *a: hole_loss(*a, cast=lambda t: t).float(), "has overflowed before"),
        (lambda *a: hole_loss(*a).half(), "The loss is torch.float16"),
        (lambda *a: hole_loss(*a, half=False), "did not run in float16"),
        (lambda m, p, k: torch.ones(()), "did not run in float16"),
        (lambda *a: hole_loss(*a).detach(), "no gradient leads back"),
        (lambda *a: hole_loss(*a, count=lambda mask: 1 - mask), "the paper divides by all of them"),
        (lambda *a: 2 * hole_loss(*a), "expected"),
        (lambda m, p, k: 1.0, "Return the loss"),
    ],
)
def test_hole_loss_wrong(check_output, answer, hint):
    text = check_output(checks.hole_loss, answer)
    assert text.startswith("Exercise 3: not right yet.") and hint in text
