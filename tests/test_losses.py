"""Every term of the loss against a plain float64 formula; the Gram matrix where it used to break; VGG's features."""

import copy
import io
import itertools
import os
import pickle
import socket
import urllib.error
from email.message import Message

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from skimage.metrics import structural_similarity
from torch import nn
from torchvision import models

from pconv import InpaintingLoss, LossTerms, LossWeights, VGGFeatures, gram_matrix
from pconv.losses import ssim, total_variation

TERMS = LossWeights._fields
PAPERS = TERMS[:-1]  # without 1 - SSIM


@pytest.fixture(scope="module")
def vgg():
    """Two layers of random filters: small enough for a test, and the features are no longer the pixels."""
    return VGGFeatures("random", layers=("relu1_1", "pool1"))


def images(batch=2, size=12):
    mask = torch.rand(batch, 1, size, size) < 0.6
    return torch.rand(batch, 3, size, size), torch.rand(batch, 3, size, size), mask


# The terms ------------------------------------------------------------------------------------------------------------


def plain_formula(vgg, output, target, mask):
    """arXiv 1804.07723, Section 3.3, Eq. 1 to 6, norms as means, in NumPy's float64 but for VGG's own layers."""
    vgg = copy.deepcopy(vgg).double()
    features = lambda image: [f.numpy() for f in vgg(torch.from_numpy(image))]  # noqa: E731
    gram = lambda f: np.einsum("nihw,njhw->nij", f, f) / np.prod(f.shape[1:])  # noqa: E731
    l1 = lambda a, b: np.abs(a - b).mean()  # noqa: E731
    output, target = output.double().numpy(), target.double().numpy()
    mask = np.broadcast_to(mask.numpy(), output.shape).astype(float)
    composite = mask * target + (1 - mask) * output
    out, comp, real = features(output), features(composite), features(target)
    n, _, height, width = mask.shape
    region = np.zeros(mask.shape, bool)
    for i, y, x in itertools.product(range(n), range(height), range(width)):
        region[i, :, y, x] = (mask[i, 0, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2] == 0).any()
    tv = 0.0
    for y, x in itertools.product(range(height), range(width)):
        for dy, dx in ((0, 1), (1, 0)):
            if y + dy < height and x + dx < width:
                both = region[:, :, y, x] & region[:, :, y + dy, x + dx]
                tv += (np.abs(composite[:, :, y + dy, x + dx] - composite[:, :, y, x]) * both).sum()
    return {
        "valid": (mask * np.abs(output - target)).mean(),
        "hole": ((1 - mask) * np.abs(output - target)).mean(),
        "perceptual": sum(l1(o, r) + l1(c, r) for o, c, r in zip(out, comp, real)),
        "style_out": sum(l1(gram(o), gram(r)) for o, r in zip(out, real)),
        "style_comp": sum(l1(gram(c), gram(r)) for c, r in zip(comp, real)),
        "tv": tv / composite.size,
        "ssim": 1 - np.mean([similarity(c, t) for c, t in zip(composite, target)]),
    }


def similarity(a, b):
    """scikit-image's SSIM of two (3, H, W) images, over every second of the windows that lie inside."""
    _, full = structural_similarity(a, b, channel_axis=0, data_range=1, full=True)
    return full[:, 3:-3:2, 3:-3:2].mean()


@pytest.mark.parametrize("mask_batch", [1, 2])
@pytest.mark.parametrize("weights", [LossWeights(), LossWeights(0.3, 2, 7, 11, 13, 17, 19)])
def test_every_term_equals_the_plain_formula(vgg, weights, mask_batch):
    output, target, mask = images()
    mask = mask[:mask_batch]
    wanted = plain_formula(vgg, output, target, mask)
    for given in (mask, mask.float(), mask * 0.5):
        terms = InpaintingLoss(vgg, weights)(output, target, given)
        for name in TERMS if weights.ssim else PAPERS:
            assert getattr(terms, name).item() == pytest.approx(wanted[name], rel=1e-5), name
        total = sum(getattr(weights, name) * wanted[name] for name in TERMS)
        assert terms.total.item() == pytest.approx(total, rel=1e-5)
        assert all(term.dtype == torch.float32 and term.ndim == 0 for term in terms)


def test_the_papers_weights():
    assert LossWeights() == (1, 6, 0.05, 120, 120, 0.1, 0)  # the last is not the paper's
    assert LossWeights._fields == ("valid", "hole", "perceptual", "style_out", "style_comp", "tv", "ssim")
    assert LossTerms._fields == (*PAPERS, "total", "ssim")


def test_what_has_no_weight_is_not_computed(monkeypatch):
    """VGG is most of the time of a step."""
    monkeypatch.setattr("pconv.losses.ssim", None)  # cannot be called, nor can the features below
    terms = InpaintingLoss(None, LossWeights(perceptual=0, style_out=0, style_comp=0))(*images())
    assert terms.hole > 0 and terms.total == terms.valid + 6 * terms.hole + 0.1 * terms.tv
    assert [terms.perceptual, terms.style_out, terms.style_comp, terms.ssim] == [0] * 4


@pytest.mark.parametrize("size", [(7, 7), (7, 30), (33, 41)])
def test_ssim_is_scikit_images(size):
    a = torch.rand(2, 3, *size, dtype=torch.float64)
    b = (a + 0.2 * torch.randn_like(a)).clamp(0, 1)
    wanted = np.mean(
        [structural_similarity(*(t.numpy() for t in pair), channel_axis=0, data_range=1) for pair in zip(a, b)]
    )
    assert ssim(a, b).item() == pytest.approx(wanted, abs=1e-12)
    assert ssim(a.float(), b.float()).item() == pytest.approx(wanted, abs=1e-5)
    assert ssim(a.float(), a.float()).item() == 1


def test_ssim_differentiates_and_refuses_what_is_smaller_than_its_window():
    a, b = torch.rand(2, 1, 2, 8, 9, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a: ssim(a, b, stride=2), a.requires_grad_())
    with pytest.raises(ValueError, match="6x9 pixels have no SSIM: its window has 7x7"):
        ssim(a[:, :, :6], b[:, :, :6])


@pytest.mark.parametrize(
    ("composite", "hole", "wanted"),
    [
        (lambda y, x: (y == 2) & (x == 2), (2, 2), 4),  # four neighbours of the one pixel that differs
        (lambda y, x: x, (2, 2), 3 * 2),  # a 3x3 region: 3 rows of 2 horizontal pairs
        (lambda y, x: 10 * y + x, (0, 0), 2 * 1 + 2 * 10),  # at the corner the region is 2x2
        (lambda y, x: x, None, 0),
        (lambda y, x: 100 * (x > 3), (2, 2), 0),  # the step lies between the region and its neighbours
    ],
)
def test_total_variation_of_the_dilated_hole_by_hand(composite, hole, wanted):
    mask = torch.ones(1, 1, 5, 5, dtype=torch.bool)
    if hole:
        mask[0, 0, hole[0], hole[1]] = False
    y, x = torch.meshgrid(torch.arange(5), torch.arange(5), indexing="ij")
    picture = composite(y, x).float().expand(1, 3, 5, 5)
    assert total_variation(picture, mask).item() == pytest.approx(wanted * 3 / 75)


def test_a_perfect_output_costs_nothing_but_its_own_variation(vgg):
    _, target, mask = images()
    terms = InpaintingLoss(vgg)(target, target, mask)
    assert terms[:5] == (0, 0, 0, 0, 0)
    assert terms.total.item() == pytest.approx(0.1 * terms.tv.item()) and terms.tv > 0


@pytest.mark.parametrize("name", ["hole", "style_comp", "tv"])
def test_composite_sends_gradient_to_the_output_through_holes_only(vgg, name):
    output, target, mask = images()
    output.requires_grad_()
    getattr(InpaintingLoss(vgg)(output, target, mask), name).backward()
    inside, outside = output.grad[~mask.expand_as(output)], output.grad[mask.expand_as(output)]
    assert not outside.any() and inside.any()


def test_valid_term_sends_gradient_through_valid_pixels_only(vgg):
    output, target, mask = images()
    output.requires_grad_()
    InpaintingLoss(vgg)(output, target, mask).valid.backward()
    sign = (output - target).sign() / output.numel()
    torch.testing.assert_close(output.grad, torch.where(mask, sign, 0))


def test_targets_features_are_computed_once_and_without_gradient():
    class Spy(nn.Module):
        def forward(self, image):
            calls.append((len(image), torch.is_grad_enabled()))
            return [image * 2]

    calls = []
    output, target, mask = images()
    output.requires_grad_(), target.requires_grad_()
    terms = InpaintingLoss(Spy())(output, target, torch.zeros_like(mask))  # all hole: the composite is the output
    assert sorted(calls) == [(2, False), (4, True)]
    (terms.perceptual + terms.style_out + terms.style_comp).backward()
    assert output.grad.any() and (target.grad is None or not target.grad.any())


def test_terms_are_float32_under_autocast(vgg):
    output, target, mask = images()
    wanted = InpaintingLoss(vgg)(output, target, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = InpaintingLoss(vgg)(output.bfloat16(), target, mask)
    assert {term.dtype for term in terms} == {torch.float32}
    torch.testing.assert_close(torch.stack(terms), torch.stack(wanted), rtol=0.05, atol=1e-3)


@pytest.mark.parametrize(
    ("output", "target", "mask"),
    [
        ((1, 3, 8, 8), (1, 3, 8, 9), (1, 1, 8, 8)),
        ((1, 3, 8, 8), (1, 3, 8, 8), (1, 1, 8, 9)),
        ((1, 3, 8, 8), (1, 3, 8, 8), (1, 3, 8, 8)),
        ((2, 3, 8, 8), (1, 3, 8, 8), (1, 1, 8, 8)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(vgg, output, target, mask):
    with pytest.raises(ValueError, match=r"output \(.*target \(.*mask \(.*do not fit; expected \(N, C, H, W\)"):
        InpaintingLoss(vgg)(torch.rand(output), torch.rand(target), torch.ones(mask))


# The Gram matrix ------------------------------------------------------------------------------------------------------


def float64_gram(features):
    flat = features.double().flatten(2)
    return flat @ flat.mT / features[0].numel()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_gram_matrix_is_the_formula_in_both_memory_formats(dtype, format):
    features = torch.randn(2, 5, 7, 9).to(dtype, memory_format=format)
    gram = gram_matrix(features)
    assert gram.shape == (2, 5, 5) and gram.dtype == dtype
    tolerance = 2 * torch.finfo(dtype).eps if dtype != torch.float64 else 1e-14
    torch.testing.assert_close(gram.double(), float64_gram(features), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_gram_matrix_where_the_divisor_rounds_to_zero_in_half(dtype):
    """c·h·w = 2^25: 1/(c·h·w) is 0 in float16; the sum of the squares is far over 65504."""
    features = torch.rand(1, 2, 4096, 4096).to(dtype)
    assert torch.tensor(1 / features.numel()).half() == 0
    gram = gram_matrix(features)
    assert gram.isfinite().all() and (gram > 0).all()
    relative = (gram.double() / float64_gram(features) - 1).abs().max()
    assert relative < 2 * max(torch.finfo(dtype).eps, 1e-3)  # a float32 sum of 2^24 numbers is itself rounded


@pytest.mark.parametrize("autocast", [False, True])
def test_gram_matrix_where_the_product_overflows_half(autocast):
    features = torch.full((1, 4, 256, 256), 1.1, dtype=torch.float32 if autocast else torch.float16)
    flat = features.half().flatten(2)
    assert torch.bmm(flat, flat.mT).isinf().all()  # dividing afterwards comes too late
    with torch.autocast("cpu", dtype=torch.float16, enabled=autocast):
        gram = gram_matrix(features)
    assert gram.dtype == torch.float16
    torch.testing.assert_close(gram, torch.full_like(gram, 1.1**2 / 4), rtol=2e-3, atol=0)


def test_gram_matrix_keeps_a_mean_that_half_can_just_hold():
    """Activations of 2^-9: their mean product 2^-18 / 4 is subnormal in float16 and not 0."""
    gram = gram_matrix(torch.full((1, 4, 64, 64), 2.0**-9, dtype=torch.float16))
    assert (gram.double() == 2.0**-20).all()


def test_gram_matrix_differentiates():
    features = torch.randn(1, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(gram_matrix, features)


@pytest.mark.parametrize("shape", [(3, 4, 4), (1, 2, 3, 4, 5)])
def test_gram_matrix_refuses_other_dimensions(shape):
    with pytest.raises(ValueError, match=r"features have shape .*expected \(N, C, H, W\)"):
        gram_matrix(torch.rand(shape))


# VGG ------------------------------------------------------------------------------------------------------------------

LAST = {"vgg16": "relu5_3", "vgg19": "relu5_4"}


@pytest.mark.parametrize("arch", ["vgg16", "vgg19"])
def test_features_are_torchvisions_by_name_with_the_normalisation_inside(arch):
    """relu2_2 is index 8 of torchvision's `features`, pool2 is 9, relu3_1 is 11, in VGG16 and in VGG19."""
    mine = VGGFeatures("random", arch, ("relu3_1", "relu2_2", "pool2"))
    assert len(mine.stack) == 12  # cut after the last one
    with torch.device("meta"):
        reference = getattr(models, arch)(weights=None).features[:12]
    reference.load_state_dict(mine.stack.state_dict(), assign=True)
    image = torch.rand(2, 3, 16, 16)
    normalised = (image - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(
        3, 1, 1
    )
    before = image.clone()
    got = mine(image)
    assert torch.equal(image, before)
    for features, index in zip(got, (11, 8, 9), strict=True):
        torch.testing.assert_close(features, reference[: index + 1](normalised))


def test_names_run_to_the_end_of_both():
    for arch, last in LAST.items():
        with pytest.raises(ValueError, match=f"{last}, pool5$"):
            VGGFeatures("random", arch, ("relu9_9",))


def test_frozen_and_in_eval_mode_for_good(vgg):
    vgg.train()
    assert not any(module.training for module in vgg.modules())
    nn.Sequential(vgg).train()
    assert not any(module.training for module in vgg.modules())
    assert not any(parameter.requires_grad for parameter in vgg.parameters())
    loss = InpaintingLoss(vgg)
    assert not list(filter(lambda parameter: parameter.requires_grad, loss.parameters()))


def test_random_is_the_same_twice_and_leaves_the_global_generator_alone(vgg):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    again = VGGFeatures("random", layers=("pool1",))
    assert torch.equal(torch.get_rng_state(), state)
    for key, value in again.state_dict().items():
        assert torch.equal(value, vgg.state_dict()[key])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_runs_under_autocast_and_keeps_the_memory_format(vgg, dtype):
    image = torch.rand(1, 3, 8, 10).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=dtype):
        got = copy.deepcopy(vgg).to(memory_format=torch.channels_last)(image)
    for mine, wanted in zip(got, vgg(image.contiguous()), strict=True):
        assert mine.dtype == dtype and mine.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(mine.float(), wanted, rtol=0.05, atol=0.05)


# Files of weights -----------------------------------------------------------------------------------------------------


@pytest.fixture
def state(vgg):
    """A torchvision-format state_dict that stops after pool1, and is not the random one."""
    return {f"features.{key}": value + 0.25 for key, value in vgg.stack.state_dict().items()}


def write(state, path):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("as_type", [str, lambda path: path])
def test_weights_from_a_file(tmp_path, state, vgg, ending, as_type):
    path = write({**state, "classifier.0.bias": torch.zeros(3)}, tmp_path / f"vgg{ending}")
    loaded = VGGFeatures(as_type(path), layers=("relu1_1", "pool1"))
    for key, value in loaded.stack.state_dict().items():
        assert torch.equal(value, state[f"features.{key}"])
    assert not torch.equal(loaded(torch.rand(1, 3, 4, 4))[0], vgg(torch.rand(1, 3, 4, 4))[0])


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("layers", "missing"), [(("pool2",), "relu2_1.*features.5.weight"), (("pool1", "relu3_1"), "relu2_1")]
)
def test_a_file_that_stops_too_early_names_the_layer(tmp_path, state, ending, layers, missing):
    path = write(state, tmp_path / f"short{ending}")
    with pytest.raises(ValueError, match=f"short{ending} stops before {missing}"):
        VGGFeatures(path, layers=layers)


class Payload:
    def __reduce__(self):
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", ["text", "empty", "truncated", "payload", "list", "shape"])
def test_files_that_are_no_weights_are_refused_by_name(tmp_path, state, content, ending):
    path = write(state, tmp_path / f"wrong{ending}")
    payload = Payload()
    payload.folder = str(tmp_path / "run by the file")
    if content == "shape":
        write({**state, "features.2.weight": torch.zeros(1)}, path)
    elif content == "list":
        torch.save([torch.zeros(3)], path)
    else:
        contents = {
            "text": b"no weights",
            "empty": b"",
            "truncated": path.read_bytes()[:1000],
            "payload": pickle.dumps(payload, protocol=2),
        }
        path.write_bytes(contents[content])
    with pytest.raises(ValueError, match=f"wrong{ending}"):
        VGGFeatures(path, layers=("pool1",))
    assert not (tmp_path / "run by the file").exists()


def test_what_is_not_there_is_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        VGGFeatures(tmp_path / "nowhere.pth")
    with pytest.raises(ValueError, match="unknown VGG 'vgg11'; expected one of: vgg16, vgg19"):
        VGGFeatures("random", arch="vgg11")
    with pytest.raises(ValueError, match=r"unknown layer\(s\) \['conv1'\]; vgg16 has: relu1_1, relu1_2, pool1"):
        VGGFeatures("random", layers=("pool1", "conv1"))
    with pytest.raises(ValueError, match="unknown layer"):
        VGGFeatures("random", layers=())


@pytest.fixture
def no_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)


class Portal(io.BytesIO):
    """What `urlopen` returns where something answers in the server's place."""

    def info(self):
        return Message()


@pytest.mark.parametrize(
    "failure", [urllib.error.URLError("no network"), TimeoutError("timed out"), ConnectionResetError("reset"), "portal"]
)
def test_imagenet_without_network_raises_oserror_and_available_falls_back(no_cache, monkeypatch, capsys, failure):
    timeouts = []

    def urlopen(*args, **kwargs):
        timeouts.append(socket.getdefaulttimeout())
        if failure == "portal":
            return Portal(b"<html>log in first</html>")
        raise failure

    monkeypatch.setattr(torch.hub, "urlopen", urlopen)
    before = socket.getdefaulttimeout()
    with pytest.raises(OSError):
        VGGFeatures("imagenet")
    assert 0 < timeouts[0] <= 30 and socket.getdefaulttimeout() == before
    capsys.readouterr()
    features = VGGFeatures.available(layers=("pool1",))
    assert features.weights == "random" and features.layers == ("pool1",)
    assert sum("random filters" in line for line in capsys.readouterr().out.splitlines()) == 1


def test_imagenet_from_the_cache_needs_no_network(no_cache, monkeypatch, tmp_path, state):
    monkeypatch.setattr(torch.hub, "urlopen", lambda *args, **kwargs: pytest.fail("went to the network"))
    folder = tmp_path / "home" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    write(state, folder / models.VGG16_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[1])
    loaded = VGGFeatures("imagenet", layers=("pool1",))
    assert torch.equal(loaded.stack[0].weight, state["features.0.weight"])


@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_gram_matrixs_own_gradient_is_autograds_and_lies_in_memory_as_vgg_needs_it(format):
    features = torch.randn(2, 3, 5, 4, dtype=torch.float64).to(memory_format=format).requires_grad_()
    weight = torch.randn(2, 3, 3, dtype=torch.float64)  # not symmetric
    plain = features.flatten(2) @ features.flatten(2).mT / (3 * 5 * 4)
    (wanted,) = torch.autograd.grad((plain * weight).sum(), features)
    (got,) = torch.autograd.grad((gram_matrix(features) * weight).sum(), features)
    torch.testing.assert_close(got, wanted)
    assert got.is_contiguous(memory_format=torch.channels_last)  # or max-pooling's backward copies it, slowly
