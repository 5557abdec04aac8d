"""What notebook 07 uses beside its lesson: CUDA's rules without a GPU, dtypes and bytes of a step.

python notebooks/course/amp.py PICTURE        (draws the picture of the title)
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn import functional as F

import pconv
from course.half import emulated_fp16
from pconv.benchmark import count_bytes, storage_address, synthetic_batch, watch_saved_tensors
from pconv.diagnostics import range_report
from pconv.photos import center_crop, to_tensor
from pconv.precision import Precision

PHOTOS = ("coffee", "astronaut", "rocket")  # the shipped U-Net was not trained on them


def photo_batch(names: Sequence[str], size: int) -> tuple[Tensor, Tensor]:
    """Bundled photos with holes over a fifth to a quarter of each.

    names: of bundled photos. size: in pixels per side of a crop around the center.
    Returns photos (N, 3, size, size) in [0, 1] and masks (N, 1, size, size), 1 = valid.
    """
    photos = pconv.bundled_photos() | pconv.bundled_photos(held_out=True)
    crops = [to_tensor(center_crop(photos[name], size)) for name in names]
    rngs = [np.random.default_rng(4 + place) for place in range(len(names))]
    holes = [pconv.random_holes(size, size, (0.2, 0.25), rng) for rng in rngs]
    return torch.cat(crops), torch.from_numpy(~np.stack(holes))[:, None].float()


# Autocast -----------------------------------------------------------------------------------------

# Python of a tensor t, (4, 4, 4, 4), or of the matrices m, (16, 4, 4), in it.
OPERATIONS = """
    F.conv2d(t, t) | t @ t | F.linear(t, m.flatten(0, 1)) | torch.bmm(m, m)
    | torch.baddbmm(m, m, m) | torch.einsum('abij,abjk', t, t) | F.prelu(t, t.mean((0, 2, 3)))
    | t.reciprocal() | 9 / t | t / 9 | t + t | t * t | t.abs() | t.clamp(0, 1) | t**2 | t.exp()
    | t.log() | t.rsqrt() | t.norm() | t.sum() | t.mean() | t.prod() | t.cumsum(0) | t.softmax(0)
    | F.l1_loss(t, t) | F.smooth_l1_loss(t, t) | F.mse_loss(t, t) | torch.cat((t, t))
    | F.batch_norm(t, None, None, training=True) | F.interpolate(t, scale_factor=2)
    | t.repeat_interleave(2, 2)"""
OPERATIONS = [operation.strip() for operation in OPERATIONS.split("|")]


@contextmanager
def cuda_autocast(half: torch.dtype = torch.float16) -> Iterator[None]:
    """CUDA's autocast, on fake tensors; `torch.autocast("cuda")` does not start without a GPU.

    A fake tensor has a shape, a dtype and a device, but no values. PyTorch's dispatcher, which
    picks the code that runs, treats it as a real one. half: what products are cast to.
    """
    with FakeTensorMode(), torch.no_grad():
        cudnn = torch.backends.cudnn.enabled
        # With cuDNN, torch 2.9 asks the GPU's driver whether it can convolve in bfloat16.
        torch.backends.cudnn.enabled = False
        torch.set_autocast_dtype("cuda", half)
        torch.set_autocast_enabled("cuda", True)
        try:
            yield
        finally:
            torch.set_autocast_enabled("cuda", False)
            torch.clear_autocast_cache()
            torch.backends.cudnn.enabled = cudnn


def cast_rule(operation: str, half: torch.dtype, device: str) -> str:
    """What an operation returns for an FP32 and for a half input: "half", "FP32" or "input's".

    operation: as in OPERATIONS. half: the half precision. device: "cpu" or "cuda".
    """
    given = []
    for dtype in (torch.float32, half):
        t = torch.ones(4, 4, 4, 4, device=device).to(dtype)
        names = {"torch": torch, "F": F, "t": t, "m": t.flatten(0, 1)}
        given.append(eval(operation, names).dtype)
    words = {(half, half): "half", (torch.float32,) * 2: "FP32", (torch.float32, half): "input's"}
    return words[tuple(given)]


def get_dtypes(
    model: nn.Module, run: Callable[[], object]
) -> dict[str, tuple[torch.dtype, torch.dtype]]:
    """{layer: (dtype of its input, dtype of its output)} while run() runs.

    Of a partial convolution they are those of the features. model: whose layers without children
    are watched.
    """
    seen = {}

    def make_hook(name):
        def hook(module, inputs, output):
            first = (
                tensor[0] if isinstance(tensor, tuple) else tensor for tensor in (inputs[0], output)
            )
            seen[name] = tuple(tensor.dtype for tensor in first)

        return hook

    leaves = {name: module for name, module in model.named_modules() if not list(module.children())}
    handles = [module.register_forward_hook(make_hook(name)) for name, module in leaves.items()]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return seen


def get_cuda_dtypes(
    model: nn.Module, *shapes: Sequence[int]
) -> dict[str, tuple[torch.dtype, torch.dtype]]:
    """`get_dtypes` of model(*inputs) under CUDA's FP16 autocast; no GPU is needed.

    shapes: of the inputs, which are FP32.
    """
    state = dict(model.named_parameters()) | dict(model.named_buffers())
    with cuda_autocast():
        fake = {
            name: torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")
            for name, tensor in state.items()
        }
        inputs = tuple(torch.empty(*shape, device="cuda") for shape in shapes)
        return get_dtypes(model, lambda: functional_call(model, fake, inputs))


def short(dtype: torch.dtype) -> str:
    """Its name, such as "float16"."""
    return str(dtype).removeprefix("torch.")


# Memory -------------------------------------------------------------------------------------------


def step_bytes(
    precision: Precision,
    batch: int,
    size: int = 128,
    widths: Sequence[int] = (64, 128, 256, 512, 512),
) -> dict[str, int]:
    """What a training step of PConvUNet with an L1 loss and Adam holds, in bytes, by part.

    batch: images. size: in pixels per side. widths: of the U-Net. Activations are what is kept for
    the backward pass, without weights and their half copies.
    """
    torch.manual_seed(0)
    model = pconv.PConvUNet(widths=widths)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    images, masks = synthetic_batch(size, batch, torch.contiguous_format, torch.device("cpu"), 0)
    with watch_saved_tensors() as saved:
        with precision.context("cpu"):
            loss = (model(images, masks).float() - images).abs().mean()
        loss.backward()
    weights = {storage_address(weight) for weight in model.parameters()}
    shapes = {weight.shape for weight in model.parameters()}
    kept = {"half copies of weights": [], "activations": []}
    for address, tensor in saved.items():
        is_copy = tensor.dtype != torch.float32 and tensor.shape in shapes
        if address not in weights:
            kept["half copies of weights" if is_copy else "activations"].append(tensor)
    optimizer.step()
    states = [state[name] for state in optimizer.state.values() for name in state if name != "step"]
    return {
        "weights": sum(weight.nbytes for weight in model.parameters()),
        "gradients": sum(weight.grad.nbytes for weight in model.parameters()),
        "Adam's two averages": sum(state.nbytes for state in states),
        **{part: count_bytes(tensors) for part, tensors in kept.items()},
    }


# Trainings and networks ---------------------------------------------------------------------------


def train_small(
    photos: Tensor,
    masks: Tensor,
    steps: int,
    scaler: torch.amp.GradScaler,
    *,
    fp16: bool = True,
    elements: int | None = None,
    before_step: Callable[[nn.Module, int], tuple[Tensor, Tensor]] | None = None,
    seed: int = 0,
) -> tuple[list[float], float]:
    """Trains a small residual U-Net on the mean squared error, always on the same photos.

    Args:
        photos, masks: (N, 3, H, W) in [0, 1] and (N, 1, H, W), 1 = valid.
        fp16: whether convolutions and all gradients are rounded to FP16.
        elements: the number of values that the mean is taken over; by default those of `photos`.
        before_step: called with the model and the number of the step; returns photos and masks.
        seed: of the weights.

    Returns:
        The error in each step, as a mean over `photos`, and the fraction of the weights whose last
        gradient is 0.
    """
    torch.manual_seed(seed)
    model = pconv.PConvUNet(widths=(16, 32, 64), residual=True).to(photos.device)
    optimizer = torch.optim.Adam(model.parameters())
    elements = elements or photos.numel()
    errors = []

    def squared_error(output: Tensor, target: Tensor, mask: Tensor) -> pconv.LossTerms:
        error = ((output.float() - target) ** 2).sum() / elements
        return pconv.LossTerms(*[error] * len(pconv.LossTerms._fields))  # the total is what counts

    with emulated_fp16(model) if fp16 else nullcontext():
        for step in range(steps):
            optimizer.param_groups[0]["lr"] = 2e-3 * min(1, (step + 1) / 10)
            batch = before_step(model, step) if before_step else (photos, masks)
            fp32 = pconv.PRECISIONS["fp32"]
            terms = pconv.training_step(model, squared_error, optimizer, scaler, fp32, *batch)
            errors.append(terms.total.item() * elements / photos.numel())
    gradients = torch.cat([weight.grad.flatten() for weight in model.parameters()])
    return errors, (gradients == 0).float().mean().item()


class Root(nn.Module):
    """The root of its input: NaN where that is negative."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sqrt()


class RootOfSize(nn.Module):
    """The root of the size of its input: finite, but with an infinite slope where that is 0."""

    def forward(self, x: Tensor) -> Tensor:
        return x.abs().sqrt()


class Inpainter(nn.Module):
    """A network with its loss, `inpainter(photo, mask) -> loss`; one layer fails in half precision.

    photo: (N, 3, H, W) in [0, 1]. mask: (N, 1, H, W), 1 = valid.
    """

    def __init__(self):
        super().__init__()
        self.net = pconv.PConvUNet(widths=(4,))
        self.valid = _Valid()
        self.hole = _Hole()
        self.smooth = _Smooth()

    def forward(self, photo: Tensor, mask: Tensor) -> Tensor:
        output = self.net(photo, mask)
        valid = self.valid(output, photo, mask)
        hole = self.hole(output, photo, mask)
        return valid + 6 * hole + 0.1 * self.smooth(output)


class _Valid(nn.Module):
    def forward(self, output, photo, mask):
        return F.l1_loss(mask * output, mask * photo)


class _Hole(nn.Module):
    def forward(self, output, photo, mask):
        difference = ((1 - mask) * (output - photo)).abs().to(output.dtype)
        return difference.sum() / difference.numel()  # a mean over all elements


class _Smooth(nn.Module):
    def forward(self, output):
        return (output[..., 1:] - output[..., :-1]).square().mean()


# The picture of the title -------------------------------------------------------------------------


def draw_title(path: Path, size: int = 128, power: int = 10) -> None:
    """Writes a PNG: gradients of the shipped U-Net in FP16's range, without a loss scale and with.

    size: of the photos, in pixels per side. power: the scale is 2^power.
    """
    photos, masks = photo_batch(PHOTOS, size)
    model = pconv.load_pretrained().train()
    model.copier = None
    loss = pconv.InpaintingLoss(pconv.VGGFeatures("random"))
    with range_report(model) as report:
        loss(model(photos, masks), photos, masks).total.backward()
    fraction = photos[:, 0].numel() / (6 * 512**2)  # of the pixels in the paper's batch
    levels = ("encoder.1", "encoder.3", "encoder.5", "decoder.1", "decoder.3", "decoder.4")
    layers = [f"{level}.conv" for level in levels]
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    titles = (
        "gradients in FP16: most lose digits, some become 0",
        f"the same, with the loss multiplied by 2^{power}: nearly all fit",
    )
    for axis, scale, title in zip(figure.subplots(2), (1.0, 2.0**power), titles, strict=True):
        report.plot("gradients", scale=fraction * scale, layers=layers, axis=axis)
        axis.set_title(title, pad=22, fontsize=12, fontweight="bold")
        axis.set_xlabel("")
    axis.set_xlabel("log2 |gradient|")
    figure.savefig(path, dpi=80, bbox_inches="tight", pad_inches=0.15)


if __name__ == "__main__":
    draw_title(Path(sys.argv[1]))
