"""LPIPS: how different two photos look to a network (Zhang et al., CVPR 2018, arXiv 1801.03924).

For measuring only. A loss that contains it would train a network to please its own judge.
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import SqueezeNet1_1_Weights, squeezenet1_1

from pconv.checkpoint import load_weights_file
from pconv.download import download_weights
from pconv.photos import to_tensor

# The layers of torchvision's `features` after which LPIPS compares, and the channels there.
_LAYERS = {1: 64, 4: 128, 7: 256, 9: 384, 10: 384, 11: 512, 12: 512}
_SMALLEST = 17  # pixels per side that SqueezeNet needs


class LPIPS(nn.Module):
    """`lpips(photo, other) -> float`: 0 for equal photos, larger the more different they look.

    It is version 0.1 with SqueezeNet 1.1 and the linear heads of the authors: at seven layers the
    squared difference of the features, each pixel's scaled to length 1, is weighted by channel and
    averaged over the pixels (Equation 1).

    Args:
        state: torchvision's `features.*` of SqueezeNet 1.1, and the heads `lin0` to `lin6`, each
            with one weight per channel. Half precision is widened.
        source: where they are from, for records.

    Raises:
        ValueError: for a state that lacks a tensor, or has one of another shape.
    """

    def __init__(self, state: dict[str, Tensor], source: str = "given"):
        super().__init__()
        self.source = source
        with torch.device("meta"):  # no memory, no random numbers: the state brings the values
            self.features = squeezenet1_1().features
        for index, channels in enumerate(_LAYERS.values()):
            self.register_buffer(f"lin{index}", torch.empty(channels, device="meta"))
        self.load_state_dict(_checked(state, self.state_dict(), source), assign=True)
        # ImageNet's mean and deviation, for RGB in [-1, 1].
        for name, values in (("_mean", (-0.030, -0.088, -0.188)), ("_std", (0.458, 0.448, 0.450))):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)
        self.eval()

    @classmethod
    def from_file(cls, path: str | Path) -> "LPIPS":
        """From one .safetensors or .pth file with all that `state` needs.

        Raises FileNotFoundError, ValueError.
        """
        return cls(load_weights_file(Path(path)), str(path))

    @classmethod
    def download(cls) -> "LPIPS":
        """torchvision's SqueezeNet with the heads that the package `lpips` ships.

        Raises OSError if that package is not installed, or if SqueezeNet is neither in torch.hub's
        cache nor can be downloaded.
        """
        package = find_spec("lpips")
        if package is None or package.origin is None:
            raise OSError("the package lpips, which has the heads, is not installed")
        heads = load_weights_file(Path(package.origin).parent / "weights" / "v0.1" / "squeeze.pth")
        backbone = download_weights(SqueezeNet1_1_Weights.IMAGENET1K_V1, "SqueezeNet 1.1")
        state = {name: value for name, value in backbone.items() if name.startswith("features.")}
        for index in range(len(_LAYERS)):
            name = f"lin{index}.model.1.weight"  # (1, C, 1, 1)
            if name not in heads:
                raise OSError(f"the package lpips has no {name}")
            state[f"lin{index}"] = heads[name].flatten()
        return cls(state, "torchvision's SqueezeNet 1.1, heads of the package lpips")

    def train(self, mode: bool = True) -> "LPIPS":
        return super().train(False)  # frozen: a judge does not learn

    @torch.inference_mode()
    def forward(self, photo: np.ndarray, other: np.ndarray) -> float:
        """photo, other: uint8 (H, W, 3). NaN if a side is shorter than 17 pixels."""
        if min(photo.shape[:2]) < _SMALLEST:
            return float("nan")
        x = torch.cat([to_tensor(photo), to_tensor(other)]).to(self._mean)  # (2, 3, H, W)
        x = (2 * x - 1 - self._mean) / self._std
        distances = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in _LAYERS:
                unit = x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)  # (2, C, H', W')
                head = getattr(self, f"lin{len(distances)}").view(-1, 1, 1)  # (C, 1, 1)
                distances.append(((unit[0] - unit[1]).square() * head).sum(0).mean())
        return float(sum(distances))


def _checked(
    state: dict[str, Tensor], expected: dict[str, Tensor], source: str
) -> dict[str, Tensor]:
    """The tensors of `state` that are expected, in float32; raises ValueError."""
    tensors = {}
    for name, value in expected.items():
        given = state.get(name)
        if not isinstance(given, Tensor) or given.shape != value.shape:
            what = tuple(given.shape) if isinstance(given, Tensor) else "missing"
            wanted = f"LPIPS (squeeze) needs {tuple(value.shape)}"
            raise ValueError(f"{source}: {name} is {what}; {wanted}")
        tensors[name] = given.float()
    return tensors
