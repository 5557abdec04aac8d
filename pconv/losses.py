"""The loss of Liu et al., arXiv 1804.07723, Section 3.3, and SSIM."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pconv.checks import check_images, check_mask_dtype
from pconv.vgg import VGGFeatures


class _Gram(torch.autograd.Function):
    """F Fᵀ / (C·H·W) for F of shape (N, C, H·W).

    Its gradient (G + Gᵀ) F / (C·H·W) is one product; autograd's own are two.
    """

    @staticmethod
    def forward(ctx, flat: Tensor) -> Tensor:
        ctx.save_for_backward(flat)
        return torch.baddbmm(
            flat.new_empty(1, 1, 1), flat, flat.mT, beta=0, alpha=1 / flat[0].numel()
        )

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        (flat,) = ctx.saved_tensors
        grad = (grad + grad.mT).to(flat.dtype)  # (N, C, C)
        pixels = flat.mT  # (N, H*W, C), as channels-last features lie in memory
        unused = grad.new_empty(1, 1, 1)
        return torch.baddbmm(unused, pixels, grad, beta=0, alpha=1 / flat[0].numel()).mT


def gram_matrix(features: Tensor) -> Tensor:
    """F Fᵀ / (C·H·W), the style of a layer (arXiv 1804.07723, Eq. 4 and 5, without their 1/C²).

    The division is baddbmm's alpha, applied to the float32 accumulator: no product that overflows
    half is ever stored, 1/(C·H·W) is never rounded to half, and no second pass is made.

    features: floating (N, C, H, W). Returns (N, C, C), in the dtype of the product: half under
    autocast. Raises ValueError for anything but 4 dimensions.
    """
    if features.ndim != 4:
        raise ValueError(f"features have shape {tuple(features.shape)}; expected (N, C, H, W)")
    return _Gram.apply(features.flatten(2))  # (N, C, H*W), no copy in either memory format


class LossWeights(NamedTuple):
    """The paper's weights (arXiv 1804.07723, Eq. 7), and one for a further term, 1 - SSIM."""

    valid: float = 1.0
    hole: float = 6.0
    perceptual: float = 0.05
    style_out: float = 120.0
    style_comp: float = 120.0
    tv: float = 0.1
    ssim: float = 0.0


class LossTerms(NamedTuple):
    """The terms before weighting, and `total`, their weighted sum; each is a float32 scalar.

    `ssim` is 1 - SSIM of the composite; without a weight it is 0, not computed, as VGG's three are.
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

    Every norm is a mean over all elements.

    Args:
        features: image -> list of feature maps; a VGGFeatures.
        weights: of the terms; the paper's by default.
        shift: with 8, the features see images from a random one of the first 8 rows and columns on,
            so that no texture learns where the grid of their pooling lies.

    `texture_scale` is a factor of the perceptual and style terms in the total.
    """

    def __init__(
        self,
        features: VGGFeatures,
        weights: LossWeights = LossWeights(),  # noqa: B008
        shift: int = 1,
    ):
        super().__init__()
        self.features = features
        self.weights = weights
        self.shift = shift
        self.texture_scale = 1.0
        self.uses_features = any((weights.perceptual, weights.style_out, weights.style_comp))

    def forward(self, output: Tensor, target: Tensor, mask: Tensor) -> LossTerms:
        """The terms and their total.

        Args:
            output, target: float (N, 3, H, W) in [0, 1].
            mask: bool or floating (N or 1, 1, H, W), > 0 where valid.

        Raises:
            ValueError: for shapes that do not fit.
            TypeError: for a mask of integers.
        """
        check_images(output, target, mask)
        check_mask_dtype(mask)
        mask = mask > 0
        output = output.float()
        target = target.float()
        composite = torch.where(mask, target, output)
        difference = (output - target).abs()
        valid = torch.where(mask, difference, 0).sum() / difference.numel()
        hole = torch.where(mask, 0, difference).sum() / difference.numel()
        tv = total_variation(composite, mask)
        zero = output.new_zeros(())
        perceptual, style_out, style_comp = zero, zero, zero
        if self.uses_features:
            compared = self._shift_grid(output, composite, target)
            perceptual, style_out, style_comp = self._compare_features(*compared)
        dissimilarity = zero
        if self.weights.ssim:
            dissimilarity = 1 - ssim(composite, target, stride=2)  # a third of the time of stride 1
        terms = (valid, hole, perceptual, style_out, style_comp, tv)
        texture = (self.texture_scale * term for term in terms[2:5])
        weighted = zip(self.weights, (valid, hole, *texture, tv, dissimilarity), strict=True)
        total = sum(weight * term for weight, term in weighted)
        return LossTerms(*terms, total, dissimilarity)

    def _shift_grid(self, *images: Tensor) -> list[Tensor]:
        """Crops of the same pixels of each (N, 3, H, W), shorter by `shift` - 1 on both sides."""
        top, left = torch.randint(self.shift, (2,)).tolist() if self.shift > 1 else (0, 0)
        height, width = (side - self.shift + 1 for side in images[0].shape[2:])
        return [image[:, :, top : top + height, left : left + width] for image in images]

    def _compare_features(self, output: Tensor, composite: Tensor, target: Tensor) -> list[Tensor]:
        """The perceptual term (Eq. 3) and the style terms (Eq. 4 and 5) of three (N, 3, H, W)."""
        with torch.no_grad():
            real_features = self.features(target)
        features = self.features(torch.cat((output, composite)))  # (2N, 3, H, W): one pass for both
        sums = [output.new_zeros(()) for _ in range(3)]
        for both, real in zip(features, real_features, strict=True):
            raw, comp = both.chunk(2)
            gram_raw, gram_comp = gram_matrix(both).chunk(2)
            gram_real = gram_matrix(real)
            sums[0] = sums[0] + l1(raw, real) + l1(comp, real)
            sums[1] = sums[1] + l1(gram_raw, gram_real)
            sums[2] = sums[2] + l1(gram_comp, gram_real)
        return sums


def l1(a: Tensor, b: Tensor) -> Tensor:
    """The mean absolute difference of a and b, floating, of the same shape: a float32 scalar.

    Half features stay half, at half the memory; only the mean is taken in float32.
    """
    return (a - b).abs().mean(dtype=torch.promote_types(a.dtype, torch.float32))


def total_variation(composite: Tensor, mask: Tensor) -> Tensor:
    """Smoothness of the hole, dilated by one pixel (arXiv 1804.07723, Eq. 6).

    The absolute differences of neighbors that both lie in the region, summed and divided by the
    number of elements of the composite.

    composite: float (N, C, H, W). mask: bool (N or 1, 1, H, W), True where valid.
    """
    region = F.max_pool2d((~mask).float(), 3, stride=1, padding=1)
    right = (composite[..., 1:] - composite[..., :-1]).abs()
    right = right * (region[..., 1:] * region[..., :-1])
    down = (composite[..., 1:, :] - composite[..., :-1, :]).abs()
    down = down * (region[..., 1:, :] * region[..., :-1, :])
    return (right.sum() + down.sum()) / composite.numel()


def ssim(a: Tensor, b: Tensor, stride: int = 1, window: int = 7) -> Tensor:
    """Mean structural similarity (Wang et al., IEEE TIP 2004, Eq. 13).

    scikit-image's `structural_similarity` with its defaults: square windows that lie inside the
    image, unbiased variances.

    Args:
        a, b: floating (N, C, H, W) in [0, 1].
        stride: in pixels, from one window to the next in each row and column.
        window: side of a window in pixels.

    Returns a scalar, 1 for equal images. Raises ValueError for images smaller than the window.
    """
    if min(a.shape[2:]) < window:
        size = f"{a.shape[2]}x{a.shape[3]}"
        raise ValueError(f"images of {size} pixels have no SSIM: its window has {window}x{window}")
    a, b = a.contiguous(), b.contiguous()  # pooling three channels is slow where they lie last
    mean_a, mean_b, aa, bb, ab = (
        F.avg_pool2d(t, window, stride) for t in (a, b, a * a, b * b, a * b)
    )
    unbiased = window**2 / (window**2 - 1)
    variances = (aa - mean_a**2 + bb - mean_b**2) * unbiased
    covariance = (ab - mean_a * mean_b) * unbiased
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return (luminance * (2 * covariance + c2) / (variances + c2)).mean()
