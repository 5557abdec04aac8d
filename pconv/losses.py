"""The loss of Liu et al., arXiv 1804.07723, Section 3.3: pixels, VGG features, Gram matrices, smoothness; and SSIM."""

import socket
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from pickle import UnpicklingError
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models
from torchvision.models.vgg import cfgs, make_layers

from pconv.checkpoint import load_tensors
from pconv.layers import check_mask_dtype

_ARCHITECTURES = {
    "vgg16": ("D", models.VGG16_Weights.IMAGENET1K_V1),
    "vgg19": ("E", models.VGG19_Weights.IMAGENET1K_V1),
}


class _Gram(torch.autograd.Function):
    """F Fᵀ / (C·H·W) for F (N, C, H·W); the gradient (G + Gᵀ) F / (C·H·W) is one product, autograd's are two."""

    @staticmethod
    def forward(ctx, flat: Tensor) -> Tensor:
        ctx.save_for_backward(flat)
        return torch.baddbmm(flat.new_empty(1, 1, 1), flat, flat.mT, beta=0, alpha=1 / flat[0].numel())

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (flat,) = ctx.saved_tensors
        grad, pixels = (grad + grad.mT).to(flat.dtype), flat.mT  # (N, H*W, C), as channels-last features lie in memory
        return torch.baddbmm(grad.new_empty(1, 1, 1), pixels, grad, beta=0, alpha=1 / flat[0].numel()).mT


def gram_matrix(features: Tensor) -> Tensor:
    """F Fᵀ / (C·H·W), the style of a layer (arXiv 1804.07723, Eq. 4 and 5, whose norm divides by C² once more).

    features: floating (N, C, H, W) -> (N, C, C) in the dtype of the product (half under autocast). The division is
    baddbmm's alpha, applied to the float32 accumulator: no product that overflows half is ever stored, 1/(C·H·W) is
    never rounded to half, and no second pass is made. Raises ValueError for anything but 4 dimensions.
    """
    if features.ndim != 4:
        raise ValueError(f"features have shape {tuple(features.shape)}; expected (N, C, H, W)")
    return _Gram.apply(features.flatten(2))  # (N, C, H*W), without a copy in either memory format


class VGGFeatures(nn.Module):
    """Features of a frozen VGG, cut after the last layer asked for: `features(image) -> [(N, C_i, H_i, W_i), ...]`.

    image: float (N, 3, H, W) in [0, 1]; the ImageNet normalisation is inside. Runs under autocast.
    weights: "imagenet" (torchvision's, downloaded once to its cache), "random" (fixed random filters, the same on every
        machine), or the path of a torchvision-format .pth or .safetensors, which may stop at the last layer asked for.
    layers: names such as "pool1" or "relu3_1".

    Raises ValueError for an unknown architecture or layer and for a file that lacks a layer, FileNotFoundError for one
    that is not there, OSError where ImageNet weights can be had neither from the cache nor by download.
    """

    def __init__(
        self,
        weights: str | Path = "imagenet",
        arch: str = "vgg16",
        layers: tuple[str, ...] = ("pool1", "pool2", "pool3"),
    ):
        super().__init__()
        if arch not in _ARCHITECTURES:
            raise ValueError(f"unknown VGG {arch!r}; expected one of: {', '.join(_ARCHITECTURES)}")
        config, imagenet = _ARCHITECTURES[arch]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the fixed random filters; they are overwritten where there are weights
            stack = make_layers(cfgs[config])
            names = _layer_names(stack)
            unknown = [name for name in layers if name not in names]
            if unknown or not layers:
                raise ValueError(f"unknown layer(s) {unknown}; {arch} has: {', '.join(names)}")
            self.arch, self.layers, self.weights = arch, tuple(layers), str(weights)
            self._taps = [names[name] for name in layers]
            self.stack = stack[: max(self._taps) + 1]
            for conv in (m for m in self.stack if isinstance(m, nn.Conv2d)):
                nn.init.kaiming_normal_(conv.weight)  # keeps the scale of the features from layer to layer
                nn.init.zeros_(conv.bias)
        if self.weights == "imagenet":
            try:
                with _socket_timeout(10):
                    state = imagenet.get_state_dict(progress=True, check_hash=True)
            except (OSError, HTTPException, RuntimeError, UnpicklingError, EOFError) as error:  # or a damaged download
                raise OSError(f"{arch}'s ImageNet weights cannot be had: {error}") from error
            self._load(state, "torchvision's weights", names)
        elif self.weights != "random":
            self._load(_read_weights(Path(weights)), str(weights), names)
        self.requires_grad_(False)
        self.eval()
        mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 1, 3, 1, 1)
        self.register_buffer("_mean", mean, persistent=False)
        self.register_buffer("_std", std, persistent=False)

    @classmethod
    def available(cls, arch: str = "vgg16", layers: tuple[str, ...] = ("pool1", "pool2", "pool3")) -> "VGGFeatures":
        """The ImageNet weights where they can be had, else the fixed random filters, said in one line on stdout."""
        try:
            return cls("imagenet", arch, layers)
        except OSError as error:
            print(f"VGG: fixed random filters are used, because {error}.")
            return cls("random", arch, layers)

    def _load(self, state: dict[str, Tensor], origin: str, names: dict[str, int]) -> None:
        wanted = {f"features.{key}": value for key, value in self.stack.state_dict().items()}
        after = sorted((index, name) for name, index in names.items())
        for key, value in wanted.items():
            if key not in state:
                name = next(name for index, name in after if index > int(key.split(".")[1]))
                raise ValueError(f"{origin} stops before {name}: no {key} for the layers {', '.join(self.layers)}")
            found = state[key]
            if not (isinstance(found, Tensor) and found.is_floating_point() and found.shape == value.shape):
                what = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
                raise ValueError(f"{origin}: {key} is {what}; {self.arch} has floats of shape {tuple(value.shape)}")
        self.stack.load_state_dict({key.removeprefix("features."): state[key] for key in wanted})

    def train(self, mode: bool = True) -> "VGGFeatures":
        return super().train(False)  # frozen: there is nothing to train

    def forward(self, image: Tensor) -> list[Tensor]:
        x = (image - self._mean.to(image.dtype)) / self._std.to(image.dtype)
        outputs = {}
        for index, layer in enumerate(self.stack):
            x = layer(x)
            if index in self._taps:
                outputs[index] = x
        return [outputs[tap] for tap in self._taps]


def _layer_names(stack: nn.Sequential) -> dict[str, int]:
    """relu1_1, relu1_2, pool1, relu2_1, ... -> index in torchvision's `features`."""
    names, block, position = {}, 1, 1
    for index, layer in enumerate(stack):
        if isinstance(layer, nn.ReLU):
            names[f"relu{block}_{position}"] = index
            position += 1
        elif isinstance(layer, nn.MaxPool2d):
            names[f"pool{block}"] = index
            block, position = block + 1, 1
    return names


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"no VGG weights at {path}: give a torchvision-format .pth or .safetensors file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a readable safetensors file: {error}") from error
    state = load_tensors(path)
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds a {type(state).__name__}, not a state_dict")
    return state


@contextmanager
def _socket_timeout(seconds: float):
    """torch.hub downloads without a timeout of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


class LossWeights(NamedTuple):
    """The paper's weights (arXiv 1804.07723, Eq. 7), and one for a term that the paper has not: 1 - SSIM."""

    valid: float = 1.0
    hole: float = 6.0
    perceptual: float = 0.05
    style_out: float = 120.0
    style_comp: float = 120.0
    tv: float = 0.1
    ssim: float = 0.0


class LossTerms(NamedTuple):
    """The terms before weighting, and `total`, their weighted sum; each a float32 scalar.

    `ssim` is 1 - SSIM of the composite. It is 0, not computed, where it has no weight, and so are the three terms of
    VGG where none of them has one.
    """

    valid: Tensor
    hole: Tensor
    perceptual: Tensor
    style_out: Tensor
    style_comp: Tensor
    tv: Tensor
    total: Tensor
    ssim: Tensor = torch.zeros(())


class InpaintingLoss(nn.Module):
    """`loss(output, target, mask) -> LossTerms` (arXiv 1804.07723, Section 3.3, up to Eq. 7).

    output, target: float (N, 3, H, W) in [0, 1]; mask: bool or floating (N or 1, 1, H, W), > 0 where valid. Every norm
    is a mean over all elements. features: a VGGFeatures. Raises ValueError for shapes that do not fit and TypeError for
    a mask of integers.
    """

    def __init__(self, features: VGGFeatures, weights: LossWeights = LossWeights()):  # noqa: B008 (immutable)
        super().__init__()
        self.features, self.weights = features, weights
        self.uses_features = any((weights.perceptual, weights.style_out, weights.style_comp))

    def forward(self, output: Tensor, target: Tensor, mask: Tensor) -> LossTerms:
        mask_fits = mask.shape[1:] == (1, *target.shape[2:]) and mask.shape[0] in (1, len(target))
        if output.shape != target.shape or not mask_fits:
            raise ValueError(
                f"output {tuple(output.shape)}, target {tuple(target.shape)} and mask {tuple(mask.shape)} do not fit; "
                "expected (N, C, H, W) twice and (N or 1, 1, H, W)"
            )
        check_mask_dtype(mask)
        mask = mask > 0
        output, target = output.float(), target.float()
        composite = torch.where(mask, target, output)
        difference = (output - target).abs()
        pixels = difference.numel()
        valid = torch.where(mask, difference, 0).sum() / pixels
        hole = torch.where(mask, 0, difference).sum() / pixels

        perceptual = style_out = style_comp = dissimilarity = output.new_zeros(())
        if self.uses_features:
            with torch.no_grad():
                wanted = self.features(target)
            got = self.features(torch.cat((output, composite)))  # one pass through VGG for both
            for both, real in zip(got, wanted, strict=True):
                raw, comp = both.chunk(2)
                perceptual = perceptual + _l1(raw, real) + _l1(comp, real)
                gram, (gram_raw, gram_comp) = gram_matrix(real), gram_matrix(both).chunk(2)
                style_out = style_out + _l1(gram_raw, gram)
                style_comp = style_comp + _l1(gram_comp, gram)
        if self.weights.ssim:
            dissimilarity = 1 - ssim(composite, target, stride=2)  # every second window: a third of the time

        terms = (valid, hole, perceptual, style_out, style_comp, total_variation(composite, mask))
        total = sum(weight * term for weight, term in zip(self.weights, (*terms, dissimilarity), strict=True))
        return LossTerms(*terms, total, dissimilarity)


def _l1(a: Tensor, b: Tensor) -> Tensor:
    return F.l1_loss(a.float(), b.float())  # float32: a mean of half numbers is not summed in half


def total_variation(composite: Tensor, mask: Tensor) -> Tensor:
    """Smoothness of the hole, dilated by one pixel (arXiv 1804.07723, Eq. 6): a scalar.

    composite: float (N, C, H, W); mask: bool (N or 1, 1, H, W), True where valid. The absolute differences of
    neighbours that both lie in the region, summed and divided by the number of elements of the composite.
    """
    region = F.max_pool2d((~mask).float(), 3, stride=1, padding=1)
    right = (composite[..., 1:] - composite[..., :-1]).abs() * (region[..., 1:] * region[..., :-1])
    down = (composite[..., 1:, :] - composite[..., :-1, :]).abs() * (region[..., 1:, :] * region[..., :-1, :])
    return (right.sum() + down.sum()) / composite.numel()


def ssim(a: Tensor, b: Tensor, stride: int = 1, window: int = 7) -> Tensor:
    """Mean structural similarity (Wang et al., IEEE TIP 2004, Eq. 13): a scalar, 1 for equal images.

    a, b: floating (N, C, H, W) in [0, 1]. scikit-image's `structural_similarity` with its defaults: square windows that
    lie inside the image, unbiased variances; every `stride`-th window of each row and column. Raises ValueError for
    images smaller than the window.
    """
    if min(a.shape[2:]) < window:
        raise ValueError(f"images of {a.shape[2]}x{a.shape[3]} pixels have no SSIM: its window has {window}x{window}")
    a, b = a.contiguous(), b.contiguous()  # pooling three channels is slow where they lie last
    mean_a, mean_b, aa, bb, ab = (F.avg_pool2d(t, window, stride) for t in (a, b, a * a, b * b, a * b))
    unbiased = window**2 / (window**2 - 1)
    variances, covariance = (aa - mean_a**2 + bb - mean_b**2) * unbiased, (ab - mean_a * mean_b) * unbiased
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return (luminance * (2 * covariance + c2) / (variances + c2)).mean()
