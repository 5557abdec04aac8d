"""The course's own helpers: a check tells a stub, a right answer and each usual mistake apart; notebooks run clean."""

import functools
import itertools

import matplotlib
import nbformat
import pytest
import torch
from course import checks, execute, plots
from nbformat.v4 import new_code_cell, new_notebook
from scipy.ndimage import distance_transform_edt
from torch.nn import functional as F

import pconv
from pconv import history
from pconv.benchmark import saved_bytes

matplotlib.use("Agg")


@pytest.fixture
def said(capsys):
    def say(check, answer):
        check(answer)
        return capsys.readouterr().out.strip()

    return say


# Exercise 1


@pytest.mark.parametrize("stub", [lambda width, kernel: ..., lambda width, kernel: None])
def test_layers_at_the_border_stub(said, stub):
    assert said(checks.layers_at_the_border, stub) == "Exercise 1: not attempted yet"


def test_layers_at_the_border_right(said):
    assert "Exercise 1: right." in said(checks.layers_at_the_border, lambda w, k: -(-w // ((k - 1) // 2)))


@pytest.mark.parametrize(
    "answer, hint",
    [
        (lambda w, k: -(-w // (k - 1)), "one side only"),
        (lambda w, k: w // ((k - 1) // 2), "round down"),
        (lambda w, k: 2 * w / (k - 1), "round up"),
        (lambda w, k: float(-(-w // ((k - 1) // 2))), "return an int"),
        (lambda w, k: -(-w // k), "centre to its edge"),
        (lambda w, k: 100, "By how many pixels"),
    ],
)
def test_layers_at_the_border_wrong(said, answer, hint):
    text = said(checks.layers_at_the_border, answer)
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


def wrong(**switches):
    return lambda x, mask, weight, bias: attempt(x, mask, weight, bias, **switches)


@pytest.mark.parametrize("stub", [lambda *a: ..., lambda *a: None, lambda *a: (..., ...)])
def test_partial_conv_stub(said, stub):
    assert said(checks.partial_conv, stub) == "Exercise 2: not attempted yet"


@pytest.mark.parametrize("right", [attempt, lambda *a: (attempt(*a)[0], attempt(*a)[1].bool())])
def test_partial_conv_right(said, right):
    assert "Exercise 2: right." in said(checks.partial_conv, right)


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
        (wrong(new=lambda total, mask: total), "holds values up to 9:"),
        (wrong(new=lambda total, mask: mask), "is the old mask"),
        (wrong(new=lambda total, mask: (total < 0.5).float()), "inverted"),
        (wrong(new=lambda total, mask: (total > 8.5).float()), "fewer valid pixels"),
        (wrong(new=lambda total, mask: torch.ones_like(total)), "more valid pixels"),
        (wrong(padding=0), "expected (2, 1, 9, 10)"),
        (lambda *a: (attempt(*a)[0][:, :2], attempt(*a)[1]), "y has shape"),
        (lambda *a: attempt(*a)[0], "Return two tensors"),
        (lambda x, m, w, b: attempt(x, m, w.flip(2), b), "pixels of its window are valid"),
    ],
)
def test_partial_conv_wrong(said, answer, hint):
    text = said(checks.partial_conv, answer)
    assert text.startswith("Exercise 2: not right yet.") and hint in text


# Exercise 3


@pytest.mark.parametrize("stub", [..., None, []])
def test_filling_network_stub(said, stub):
    assert said(checks.filling_network, stub) == "Exercise 3: not attempted yet"


@pytest.mark.parametrize("right", [[(3, 2)] * 6, ((7, 2), (5, 2), (5, 2), (3, 2), (3, 2), (3, 2))])
def test_filling_network_right(said, right):
    assert "Exercise 3: right." in said(checks.filling_network, right)


def test_filling_network_knows_the_best(said):
    """By trying all networks of at most six layers on the formula of the receptive field."""
    networks = [(n, kernels) for n in range(1, 7) for kernels in itertools.product((3, 5, 7), repeat=n)]
    fill = [(n, ks) for n, ks in networks if 1 + sum((k - 1) * 2**i for i, k in enumerate(ks)) > 100]
    assert min(n for n, _ in fill) == 5 and min(sum(k * k for k in ks) for _, ks in fill) == 54
    assert "No network has fewer layers" in said(checks.filling_network, [(7, 2)] * 5)
    assert "No network has fewer weights" in said(checks.filling_network, [(3, 2)] * 6)


@pytest.mark.parametrize(
    "answer, hint",
    [
        ([(7, 1)] * 6, "receptive field is 37 pixels, and the hole is 100. Hint: a stride of 2"),
        ([(3, 1)] * 3 + [(7, 2)] * 3, "helps only the layers after it"),
        ([(3, 2)] * 7, "These are 7 layers"),
        ([(9, 2)] * 5, "a kernel is 3, 5 or 7"),
        ([(1, 2)] * 5 + [(5, 1)], "a kernel is 3, 5 or 7"),
        ((7, 2), "Give a list of pairs"),
        ([3, 3, 3], "Give a list of pairs"),
        (5, "Give a list of pairs"),
        ([(4, 2)] * 6, "a kernel is 3, 5 or 7"),
        ([(7, 4)] * 3, "a stride is 1 or 2"),
    ],
)
def test_filling_network_wrong(said, answer, hint):
    text = said(checks.filling_network, answer)
    assert text.startswith("Exercise 3: not right yet.") and hint in text


# Notebook 02, exercise 1


def levels(width, kernels, *, reach=lambda kernel, step: (kernel - 1) // 2 * step, more=0, first=1):
    """The solution, with a switch for each mistake."""
    total, step = 0, 1
    for level, kernel in enumerate(kernels, first):
        total, step = total + reach(kernel, step), 2 * step
        if total >= width + more:
            return level


@pytest.mark.parametrize("stub", [lambda width, kernels: ..., lambda width, kernels: None])
def test_levels_at_the_border_stub(said, stub):
    assert said(checks.levels_at_the_border, stub) == "Exercise 1: not attempted yet"


def test_levels_at_the_border_right(said):
    assert "Exercise 1: right. 5 levels" in said(checks.levels_at_the_border, levels)


@pytest.mark.parametrize(
    "switches, hint",
    [
        ({"reach": lambda k, step: (k - 1) * step}, "Twice too far"),
        ({"reach": lambda k, step: (k - 1) // 2}, "Where are the strides?"),
        ({"more": 1}, "A reach just as long as the hole"),
        ({"first": 0}, "Levels count from 1"),
        ({"reach": lambda k, step: 100}, "4 pixels are gone at level 2, you say 1"),
        ({"reach": lambda k, step: step}, "3 pixels are gone at level 1, you say 2"),
    ],
)
def test_levels_at_the_border_wrong(said, switches, hint):
    text = said(checks.levels_at_the_border, functools.partial(levels, **switches))
    assert text.startswith("Exercise 1: not right yet.") and hint in text


# Notebook 02, exercise 2


def box(counts, kernel, outputs=1, padding=None):
    ones = torch.ones(outputs, counts.shape[1], kernel, kernel)
    return F.conv2d(counts, ones, padding=kernel // 2 if padding is None else padding)


def valid_features(masks, channels):
    return sum(m * c if m.shape[1] == 1 else m.sum(1, keepdim=True) for m, c in zip(masks, channels, strict=True))


def every_mask(masks, channels):
    return torch.cat([mask.expand(-1, c, -1, -1) for mask, c in zip(masks, channels, strict=True)], 1)


@pytest.mark.parametrize("stub", [lambda m, c, k: ..., lambda m, c, k: None])
def test_window_sum_stub(said, stub):
    assert said(checks.window_sum, stub) == "Exercise 2: not attempted yet"


@pytest.mark.parametrize(
    "right",
    [
        lambda m, c, k: box(valid_features(m, c), k),
        lambda m, c, k: F.avg_pool2d(valid_features(m, c), k, 1, k // 2) * k * k,
        lambda m, c, k: box(every_mask(m, c).sum(1, keepdim=True), k),
    ],
)
def test_window_sum_right(said, right):
    assert "Exercise 2: right." in said(checks.window_sum, right)


@pytest.mark.parametrize(
    "answer, hint",
    [
        (lambda m, c, k: box(sum(x.sum(1, keepdim=True) for x in m), k), "it counts C_i times"),
        (lambda m, c, k: box(sum(x.sum(1, keepdim=True) * n for x, n in zip(m, c)), k), "and that is all"),
        (lambda m, c, k: box(valid_features(m, c), k) / k**2, "the mean over the window"),
        (lambda m, c, k: box(every_mask(m, c), k), "16 times the multiplications"),
        (lambda m, c, k: sum(box(valid_features([x], [n]), k) for x, n in zip(m, c)), "3 times the multiplications"),
        (lambda m, c, k: box(every_mask(m, c), k, outputs=4), "Shape (2, 4, 11, 14), expected (2, 1, 11, 14)"),
        (lambda m, c, k: box(valid_features(m, c), k, padding=0), "Shape (2, 1, 7, 10)"),
        (lambda m, c, k: 3, "Shape ()"),
        (lambda m, c, k: box(valid_features(m, c), k) > 0, "features are valid, not 1"),
    ],
)
def test_window_sum_wrong(said, answer, hint):
    text = said(checks.window_sum, answer)
    assert text.startswith("Exercise 2: not right yet.") and hint in text


# Notebook 02, exercise 3


@pytest.mark.parametrize("stub", [..., None])
def test_network_for_large_photos_stub(said, stub):
    assert said(checks.network_for_large_photos, stub) == "Exercise 3: not attempted yet"


@pytest.mark.parametrize("right", [(32,) * 7, [16, 32, 64, 128, 128, 128, 128], (16,) * 8])
def test_network_for_large_photos_right(said, right):
    text = said(checks.network_for_large_photos, right)
    assert "Exercise 3: right." in text and f"{sum(right)} features" in text


@pytest.mark.parametrize(
    "answer, hint",
    [
        ((16,) * 6, "6 levels: the hole is not gone in 116 of the 128 places"),
        ((64,) * 7, "are kept, at most 400"),
        ((16, 16, 32, 64, 128, 256, 512), "million weights, at most 2"),
        (pconv.PConvUNet().widths, "million weights, at most 2"),
        ((8,) * 7, "at least 16"),
        ([], "Give a list"),
        (7, "Give a list"),
    ],
)
def test_network_for_large_photos_wrong(said, answer, hint):
    text = said(checks.network_for_large_photos, answer)
    assert text.startswith("Exercise 3: not right yet.") and hint in text


def test_kept_memory_is_that_of_the_large_photo():
    """The check measures a photo of 128 x 128 and says 64 times that: a photo four times as large, 16 times."""
    model = pconv.PConvUNet(widths=(16,) * 7).eval()
    kernels = sum(block.conv.weight.nbytes for block in (*model.encoder, *model.decoder))
    photos = [torch.rand(1, 3, size, size) for size in (128, 512)]
    small, large = (saved_bytes(lambda p=photo: model(p, p[:, :1] > 0.3)) - kernels for photo in photos)
    assert 15.9 < large / small < 16.1


# Notebook 04


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


# Notebook 03


def ratio_at_border(kernel, padding, dilation, *, outside=lambda k, p, d: -(-p // d), corner=lambda edge: edge**2):
    """The solution, with a switch for each mistake."""
    edge = kernel / (kernel - outside(kernel, padding, dilation))
    return edge, corner(edge)


@pytest.mark.parametrize("check", [checks.padding_ratio, checks.partial_padding, checks.fill_unknown])
@pytest.mark.parametrize("stub", [lambda *a: ..., lambda *a: None, lambda *a: (..., ...)])
def test_notebook_03_stubs(said, check, stub):
    assert said(check, stub).endswith(": not attempted yet")


def test_padding_ratio_right(said):
    assert "Exercise 1: right." in said(checks.padding_ratio, ratio_at_border)


@pytest.mark.parametrize(
    "switches, hint",
    [
        ({"corner": lambda edge: edge}, "hangs over two sides"),
        ({"corner": lambda edge: 1 / (2 / edge - 1)}, "are counted twice"),
        ({"corner": lambda edge: 7}, "1.5 and 2.25 when measured, your answer is (1.5, 7)"),
        ({"outside": lambda k, p, d: p}, "Kernel 3, padding 2, dilation 2: Pixels of the window lie a dilation apart"),
        ({"outside": lambda k, p, d: p // d}, "Kernel 5, padding 3, dilation 2: Round up"),
        ({"outside": lambda k, p, d: k // 2}, "Kernel 7, padding 1, dilation 1: The window hangs over by its padding"),
    ],
)
def test_padding_ratio_wrong(said, switches, hint):
    text = said(checks.padding_ratio, functools.partial(ratio_at_border, **switches))
    assert text.startswith("Exercise 1: not right yet.") and hint in text


def test_padding_ratio_upside_down_and_single(said):
    assert "upside down" in said(checks.padding_ratio, lambda *a: [1 / r for r in ratio_at_border(*a)])
    assert "when measured, your answer is 1.5." in said(checks.padding_ratio, lambda *a: ratio_at_border(*a)[0])


def padded(x, weight, bias, *, ratio=lambda total: 9 / total, scale_bias=False, with_bias=True, channels=1):
    """The solution, with a switch for each mistake."""
    total = F.conv2d(torch.ones_like(x[:1, :channels]), torch.ones(1, channels, 3, 3), padding=1)
    y, b = F.conv2d(x, weight, padding=1), bias.view(1, -1, 1, 1) if with_bias else 0
    return (y + b) * ratio(total) if scale_bias else y * ratio(total) + b


def replicated(x, weight, bias):
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), weight, bias)


def keeping_the_first_ratio():
    kept = []
    return lambda x, w, b: padded(x, w, b, ratio=lambda total: kept[0] if kept else (kept.append(9 / total) or kept[0]))


@pytest.mark.parametrize("right", [padded, functools.partial(padded, ratio=lambda total: 27 / total, channels=3)])
def test_partial_padding_right(said, right):
    assert "Exercise 2: right." in said(checks.partial_padding, right)


@pytest.mark.parametrize(
    "answer, hint",
    [
        (functools.partial(padded, ratio=lambda total: 1), "this is zero padding"),
        (functools.partial(padded, scale_bias=True), "The bias is scaled too"),
        (functools.partial(padded, with_bias=False), "The bias is missing"),
        (functools.partial(padded, ratio=lambda total: total / 9), "upside down"),
        (functools.partial(padded, ratio=lambda total: 1 / total), "The ratio is 1/sum(M)"),
        (functools.partial(padded, channels=3), "sum(1) is 27"),
        (replicated, "replicate padding"),
        (keeping_the_first_ratio(), "another size: is a ratio kept?"),
        (lambda x, w, b: F.conv2d(x, w, b), "shape (2, 4, 7, 8), expected a tensor of shape (2, 4, 9, 10)"),
        (lambda x, w, b: padded(x, w.flip(2), b), "expected"),
    ],
)
def test_partial_padding_wrong(said, answer, hint):
    text = said(checks.partial_padding, answer)
    assert text.startswith("Exercise 2: not right yet.") and hint in text


def averaged(values):
    """Averages of the known neighbours, again and again, until all is filled."""
    average = pconv.PartialConv2d(1, 1, 3, padding=1, bias=False).requires_grad_(False)
    average.weight.fill_(1 / 9)
    x, known = values[None, None], values.isfinite()[None, None]
    y, valid = x, known
    while not valid.all():
        y, valid = average(y, valid)
        y = torch.where(known, x, y)
    return y[0, 0]


def nearest_known(values):
    rows, columns = distance_transform_edt(values.isnan().numpy(), return_distances=False, return_indices=True)
    return values[rows, columns]


def test_fill_unknown_right(said):
    assert "Exercise 3: right." in said(checks.fill_unknown, averaged)


@pytest.mark.parametrize(
    "answer, hint",
    [
        (lambda v: v, "pixels are not filled"),
        (lambda v: averaged(v).round(), "Known pixels have changed"),
        (lambda v: v.nan_to_num(0), "Does an unknown pixel count as 0"),
        (nearest_known, "Take more than one known pixel"),
        (lambda v: averaged(v)[None], "Return a tensor of shape (250, 371)"),
    ],
)
def test_fill_unknown_wrong(said, answer, hint):
    text = said(checks.fill_unknown, answer)
    assert text.startswith("Exercise 3: not right yet.") and hint in text


# Pictures


def luminance(color):
    r, g, b = matplotlib.colors.to_rgb(color)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def test_colours_differ_in_grey():
    levels = [luminance(color) for color in (plots.VALID, plots.FILLED, plots.HOLE)]
    assert all(a - b > 0.15 for a, b in itertools.pairwise(levels))


def test_precisions_look_as_in_the_package():
    assert plots.STYLES is history.STYLES and {"fp32", "bf16", "fp16"} <= history.STYLES.keys()


def test_pictures_of_masks_and_damage():
    image = torch.full((1, 3, 2, 2), 0.5)
    image[..., 0, 0] = torch.nan
    mask, before = torch.tensor([[[[0.0, 1], [1, 1]]]]), torch.tensor([[[[0.0, 0], [1, 1]]]])
    hole, filled, valid = (matplotlib.colors.to_rgb(c) for c in (plots.HOLE, plots.FILLED, plots.VALID))
    assert tuple(plots.picture(image)[0, 0]) == hole == tuple(plots.damaged(image.nan_to_num(9), mask)[0, 0])
    drawn = plots.mask_picture(mask, before)
    assert [tuple(drawn[i]) for i in ((0, 0), (0, 1), (1, 0))] == [hole, filled, valid]
    assert plots.picture(image)[1, 1].tolist() == [0.5] * 3


def test_figures_have_titles_and_labels():
    axes = plots.pictures([("a", plots.mask_picture(torch.ones(1, 1, 4, 4)))] * 3, columns=2)
    plots.outline(axes[0], (1, 1), 3)
    assert [axis.get_title() for axis in axes] == ["a"] * 3 and len(axes[0].patches) == 2
    table = plots.numbers([("t", torch.tensor([[1.0, 2.25]]), torch.ones(1, 2))], digits=2)[0]
    assert [text.get_text() for text in table.texts] == ["1", "2.25"]
    curve = plots.curves({"bf16": ([1, 2], [3, 4])}, "training step", "loss")
    assert (curve.get_xlabel(), curve.get_ylabel()) == ("training step", "loss")
    assert curve.lines[0].get_color() == history.STYLES["bf16"]["color"]
    plots.plt.close("all")


def test_a_network_is_drawn_as_its_layers_are():
    axis = plots.unet(pconv.PConvUNet(1, 2, widths=(4, 6)), (5, 9))
    written = [text.get_text() for text in axis.texts if text.get_text()]
    boxes = ["1", "4", "6", "4", "6", "4", "1", "4", "2"]  # the encoder; two parts and the output, twice
    assert sorted(written) == sorted([*boxes, "7 × 7", "5 × 5", "3 × 3", "3 × 3", "5 × 9", "3 × 5", "2 × 3"])
    x0, x1, y0, y1 = *axis.get_xlim(), *axis.get_ylim()
    assert all(x0 < x < x1 and y0 < y < y1 for x, y in (text.get_position() for text in axis.texts))
    colors = [matplotlib.colors.to_hex(patch.get_facecolor()) for patch in axis.patches]
    assert colors.count(plots.LINE) == len(boxes), "a mask beside all features"
    plots.plt.close("all")


# The script that executes notebooks


def notebook_file(tmp_path, *sources):
    path = tmp_path / "a.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(source) for source in sources]), path)
    return path


def test_execute_twice_gives_the_same_bytes(tmp_path):
    path = notebook_file(
        tmp_path,
        "import os, matplotlib.pyplot as plt\nfrom ipywidgets import interact\nprint(len(os.listdir()))",
        "for i in range(3): print(i, flush=True)",
        "plt.plot([1, 2])\nplt.show()",
        "interact(lambda n: print(n), n=(0, 4));",
    )
    assert execute.main([str(path)]) == 0
    once = path.read_bytes()  # cell ids included
    assert execute.main([str(path)]) == 0 and path.read_bytes() == once and once.endswith(b"}\n")
    notebook = nbformat.read(path, as_version=4)
    assert [cell.execution_count for cell in notebook.cells] == [1, 2, 3, 4]
    first, loop, figure, control = (cell.outputs for cell in notebook.cells)
    assert first[0].text == "1\n" and loop[0].text == "0\n1\n2\n", "in the notebook's folder; one stream, one output"
    assert "image/png" in figure[0].data
    assert [set(output.data) for output in control] == [{"text/plain"}]
    assert set(notebook.metadata) == {"kernelspec", "language_info"} and not any(c.metadata for c in notebook.cells)


@pytest.mark.parametrize(
    "source, words",
    [
        ("1 / 0", "ZeroDivisionError"),
        ("import warnings\nwarnings.warn('careful')", "prints to stderr"),
        ("from ipywidgets import interact\ninteract(lambda n: 1 / n, n=(0, 0));", "a widget raises ZeroDivisionError"),
    ],
)
def test_a_notebook_that_does_not_run_clean_is_left_alone(tmp_path, capsys, source, words):
    path = notebook_file(tmp_path, source)
    before = path.read_bytes()
    assert execute.main([str(path)]) == 1
    assert words in capsys.readouterr().err and path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["a.ipynb"]


def test_all_notebooks_are_found():
    names = [path.name for path in execute.notebooks()]
    assert names.count("01_partial_convolution.ipynb") == 2 and pconv.__version__
