"""Features of a frozen VGG: what the perceptual and the style loss compare."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.vgg import cfgs, make_layers

from pconv.checkpoint import load_weights_file
from pconv.download import download_weights

# torchvision's name of the layer configuration, and its ImageNet weights.
_ARCHITECTURES = {
    "vgg16": ("D", models.VGG16_Weights.IMAGENET1K_V1),
    "vgg19": ("E", models.VGG19_Weights.IMAGENET1K_V1),
}


class VGGFeatures(nn.Module):
    """Features of a frozen VGG: `features(image) -> [(N, C_i, H_i, W_i), ...]`.

    Args:
        weights: "imagenet" (torchvision's, downloaded once to its cache), "random" (fixed random
            filters, the same on every machine), or the path of a torchvision-format .pth or
            .safetensors file, which may stop at the last layer requested.
        arch: "vgg16" or "vgg19".
        layers: names such as "pool1" or "relu3_1".
        pooling: "max", as VGG was trained, or "average", whose gradient reaches every pixel (Gatys
            et al., CVPR 2016, Section 2).

    Raises:
        ValueError: for an unknown architecture, layer or pooling; for a file that lacks a layer.
        FileNotFoundError: for a file that is not there.
        OSError: if the ImageNet weights are neither in the cache nor can be downloaded.
    """

    def __init__(
        self,
        weights: str | Path = "imagenet",
        arch: str = "vgg16",
        layers: tuple[str, ...] = ("pool1", "pool2", "pool3"),
        pooling: str = "max",
    ):
        super().__init__()
        if arch not in _ARCHITECTURES:
            raise ValueError(f"unknown VGG {arch!r}; expected one of: {', '.join(_ARCHITECTURES)}")
        stack = _make_random_layers(arch)
        indices = _layer_indices(stack)
        unknown = [name for name in layers if name not in indices]
        if unknown or not layers:
            raise ValueError(f"unknown layer(s) {unknown}; {arch} has: {', '.join(indices)}")
        if pooling not in ("max", "average"):
            raise ValueError(f"unknown pooling {pooling!r}; expected one of: max, average")
        self.arch = arch
        self.layers = tuple(layers)
        self.weights = str(weights)
        self._indices = [indices[name] for name in layers]
        self.stack = stack[: max(self._indices) + 1]
        if self.weights == "imagenet":
            self._load(
                download_weights(_ARCHITECTURES[arch][1], arch), "torchvision's weights", indices
            )
        elif self.weights != "random":
            self._load(load_weights_file(Path(weights)), str(weights), indices)
        if pooling == "average":
            for index, layer in enumerate(self.stack):
                if isinstance(layer, nn.MaxPool2d):
                    self.stack[index] = nn.AvgPool2d(2)
        self.requires_grad_(False)
        self.eval()
        for name, values in (("_mean", (0.485, 0.456, 0.406)), ("_std", (0.229, 0.224, 0.225))):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    @classmethod
    def available(
        cls,
        arch: str = "vgg16",
        layers: tuple[str, ...] = ("pool1", "pool2", "pool3"),
        pooling: str = "max",
    ) -> "VGGFeatures":
        """The ImageNet weights, or fixed random filters and one line on stdout that says so."""
        try:
            return cls("imagenet", arch, layers, pooling)
        except OSError as error:
            print(f"VGG: fixed random filters are used, because {error}.")
            return cls("random", arch, layers, pooling)

    def _load(self, state: dict[str, Tensor], origin: str, indices: dict[str, int]) -> None:
        """Copies `state`, with torchvision's keys, into the layers that are kept."""
        for key, value in self.stack.state_dict(prefix="features.").items():
            if key not in state:
                index = int(key.split(".")[1])
                name = min((i, name) for name, i in indices.items() if i > index)[1]
                needed = f"no {key} for the layers {', '.join(self.layers)}"
                raise ValueError(f"{origin} stops before {name}: {needed}")
            actual = state[key]
            expected = f"{self.arch} has floats of shape {tuple(value.shape)}"
            if not isinstance(actual, Tensor):
                raise ValueError(f"{origin}: {key} is {type(actual).__name__}; {expected}")
            if not actual.is_floating_point() or actual.shape != value.shape:
                shape = f"{actual.dtype} {tuple(actual.shape)}"
                raise ValueError(f"{origin}: {key} is {shape}; {expected}")
        self.stack.load_state_dict(
            {key: state[f"features.{key}"] for key in self.stack.state_dict()}
        )

    def train(self, mode: bool = True) -> "VGGFeatures":
        return super().train(False)  # frozen: there is nothing to train

    def forward(self, image: Tensor) -> list[Tensor]:
        """The features of each layer, in the order of `layers`.

        image: float (N, 3, H, W) in [0, 1]; the ImageNet normalization is done here.
        """
        x = (image - self._mean.to(image.dtype)) / self._std.to(image.dtype)
        outputs = {}
        for index, layer in enumerate(self.stack):
            x = layer(x)
            if index in self._indices:
                outputs[index] = x
        return [outputs[index] for index in self._indices]


def _make_random_layers(arch: str) -> nn.Sequential:
    """torchvision's `features`, with filters that are the same on every machine."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        stack = make_layers(cfgs[_ARCHITECTURES[arch][0]])
        for conv in (layer for layer in stack if isinstance(layer, nn.Conv2d)):
            nn.init.kaiming_normal_(
                conv.weight
            )  # the features keep their scale from layer to layer
            nn.init.zeros_(conv.bias)
    return stack


def _layer_indices(stack: nn.Sequential) -> dict[str, int]:
    """relu1_1, relu1_2, pool1, relu2_1, ... -> index in torchvision's `features`."""
    indices = {}
    block, position = 1, 1
    for index, layer in enumerate(stack):
        if isinstance(layer, nn.ReLU):
            indices[f"relu{block}_{position}"] = index
            position += 1
        elif isinstance(layer, nn.MaxPool2d):
            indices[f"pool{block}"] = index
            block, position = block + 1, 1
    return indices
