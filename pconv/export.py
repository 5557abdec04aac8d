"""A model as an ONNX file, for programs without PyTorch."""

import copy
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pconv.files import atomic_write
from pconv.unet import PConvUNet

OPSET = 18
# Any height, width and number of images. The example's are not special: not 1, not equal, and not
# multiples of what the strides add up to.
AXES = {0: "batch", 2: "height", 3: "width"}
_EXAMPLE = (2, 3, 90, 134)


class _MaskTrace(nn.Module):
    """`PConvUNet.mask_trace` as a module: the masks, without their names."""

    def __init__(self, model: PConvUNet):
        super().__init__()
        self.model = model

    def forward(self, mask: Tensor) -> list[Tensor]:
        return [new_mask for _, new_mask in self.model.mask_trace(mask)]


def export_onnx(model: nn.Module, path: str | Path, opset: int = OPSET) -> None:
    """Writes a model as ONNX: `image` and `mask` in, `output` out, of any size.

    image is float32 (N, 3, H, W) in [0, 1], mask bool (N, 1, H, W), True = valid; output is float32
    (N, 3, H, W). What the image holds in its holes does not matter. `torch.onnx.export` does the
    same, given `dynamic_shapes=(AXES, AXES)`.

    Args:
        model: a PConvUNet of 3 channels.
        path: the file to write.
        opset: the version of ONNX's operators.

    Raises:
        ImportError: without onnx and onnxscript, which `pip install 'pconv[export]'` brings.
        OSError: if the file cannot be written.
    """
    _export(model, make_example(*_EXAMPLE), ["image", "mask"], ["output"], path, opset)


def export_mask_trace(model: PConvUNet, path: str | Path, opset: int = OPSET) -> None:
    """Writes what the masks do as ONNX, without a feature: `model.mask_trace`.

    In: mask, bool (N, 1, H, W), True = valid. Out: float32 (N, 1, H', W'), the mask after every
    layer, in order of the forward pass, under the name of the layer, such as `encoder.0`.

    Args and raises as `export_onnx`.
    """
    _, mask = make_example(*_EXAMPLE)
    names = [name for name, _ in model.mask_trace(mask)]
    _export(_MaskTrace(model), (mask,), ["mask"], names, path, opset)


def _export(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    input_names: list[str],
    output_names: list[str],
    path: str | Path,
    opset: int,
) -> None:
    # Channels-last weights would fix the number of images.
    model = copy.deepcopy(model).float().cpu().eval().to(memory_format=torch.contiguous_format)
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # about the exporter's own future
        program = torch.onnx.export(
            model,
            inputs,
            input_names=input_names,
            output_names=output_names,
            dynamic_shapes=(AXES,) * len(inputs),
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    with atomic_write(path) as temporary:
        program.save(str(temporary))


def make_example(batch: int, channels: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """An image and a mask with a square hole and some loose pixels."""
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(batch, channels, height, width, generator=generator)
    mask = torch.rand(batch, 1, height, width, generator=generator) < 0.98
    mask[..., height // 3 : height // 2, width // 3 : width // 2] = False
    return image, mask


def compare_onnx(model: nn.Module, path: str | Path, size: tuple[int, int]) -> float:
    """The largest difference between an ONNX file in onnxruntime and its model in PyTorch.

    Args:
        model: as in `export_onnx`, on the CPU.
        path: the file.
        size: (height, width) of the image that both fill; NaN stands in its holes.

    Raises ImportError without onnxruntime.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    image, mask = make_example(1, 3, *size)
    image = torch.where(mask, image, torch.nan)
    actual = session.run(None, {"image": image.numpy(), "mask": mask.numpy()})[0]
    with torch.inference_mode():
        expected = model(image, mask).numpy()
    return float(np.abs(actual - expected).max())
