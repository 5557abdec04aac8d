"""Inpaint one photo; save and load the weights that do it."""

import json
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from pconv.files import atomic_write
from pconv.photos import as_photo, to_tensor
from pconv.tiles import fill
from pconv.unet import PConvUNet

SHIPPED = "pconv_small.safetensors"


def inpaint(
    model: nn.Module, photo: np.ndarray | Image.Image | str | Path, holes: np.ndarray
) -> np.ndarray:
    """The photo with its holes filled in; every pixel outside the holes is returned bit for bit.

    The model runs on its device and in its dtype, in eval mode; a large photo is filled in tiles. A
    gray photo stays gray.

    Args:
        model: image, mask -> image, such as a PConvUNet.
        photo: uint8 (H, W, 3), a Pillow image or a path, of any size.
        holes: bool (H, W), True = hole.

    Returns:
        uint8 (H, W, 3).

    Raises:
        TypeError: for holes that are not bool.
        ValueError: for holes of another size, and as `as_photo`.
    """
    photo = as_photo(photo)
    holes = np.asarray(holes)
    if holes.dtype != bool:
        raise TypeError(f"holes are {holes.dtype}; expected bool, True = hole: holes > 0")
    if holes.shape != photo.shape[:2]:
        raise ValueError(f"holes have shape {holes.shape}; the photo has {photo.shape[:2]}")
    parameter = next(model.parameters())
    image = to_tensor(photo).to(parameter.device, parameter.dtype)
    mask = torch.from_numpy(~holes)[None, None].to(parameter.device)  # (1, 1, H, W)
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            output = fill(model, image, mask)[0]
    finally:
        model.train(training)
    output = output.float().nan_to_num(0).clamp(0, 1).mul(255).round().byte()
    filled = output.permute(1, 2, 0).cpu().numpy()  # (H, W, 3)
    if (photo == photo[:, :, :1])[~holes].all():  # a gray photo stays gray
        filled = np.repeat(np.rint(filled.mean(2, keepdims=True)).astype(np.uint8), 3, 2)
    return np.where(holes[:, :, None], filled, photo)


def save_weights(
    model: PConvUNet, path: str | Path, dtype: torch.dtype | None = None, **metadata: str
) -> None:
    """Writes the model as safetensors, with its architecture and `metadata` in the header.

    dtype: what floating tensors are rounded to, such as torch.float16 for half the size; by default
    they stay. Raises OSError.
    """
    names = ("in_channels", "out_channels", "widths", "residual", "copy_texture")
    architecture = json.dumps({name: getattr(model, name) for name in names})
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    if dtype is not None:
        state = {
            name: value.to(dtype) if value.is_floating_point() else value
            for name, value in state.items()
        }
    with atomic_write(path) as temporary:
        temporary.write_bytes(save(state, {"architecture": architecture, **metadata}))


def read_metadata(path: str | Path) -> dict[str, str]:
    """The header of a file of weights: the architecture, and how they were trained.

    Raises as `load_weights`.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no weights at {path}")
    open(path, "rb").close()  # raises PermissionError; safetensors would say: no such file
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} does not hold the weights of a PConvUNet: {error}") from error


def load_weights(path: str | Path, device: str | torch.device = "cpu") -> PConvUNet:
    """The model that `save_weights` wrote, in float32 and eval mode.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a file that does not hold the weights of a PConvUNet.
    """
    metadata = read_metadata(path)
    try:
        architecture = json.loads(metadata["architecture"])
        with safe_open(path, "pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        levels = len(architecture["widths"])
        if levels > len(state):
            raise ValueError(f"{levels} widths for {len(state)} tensors")
        # Compared without memory first: a damaged header may claim any size.
        with torch.device("meta"):
            PConvUNet(**architecture).load_state_dict(state, assign=True)
        model = PConvUNet(**architecture)
        model.load_state_dict(state)
    except (
        SafetensorError,
        KeyError,
        TypeError,
        ValueError,
        ArithmeticError,
        RuntimeError,
        OSError,
    ) as error:
        raise ValueError(f"{path} does not hold the weights of a PConvUNet: {error}") from error
    return model.to(device, memory_format=torch.channels_last).eval()


def load_photo_weights(path: str | Path, device: str | torch.device = "cpu") -> PConvUNet:
    """`load_weights`, for a model that takes and returns the 3 channels of a photo.

    Raises as `load_weights`, and ValueError for another number of channels.
    """
    model = load_weights(path, device)
    if (model.in_channels, model.out_channels) != (3, 3):
        channels = f"takes {model.in_channels} channels and gives {model.out_channels}"
        raise ValueError(f"{path} {channels}; a photo has 3")
    return model


def pretrained_file() -> Path:
    """The shipped weights: beside the installed package, or in `data/` of the repository.

    Raises FileNotFoundError if they are in neither place.
    """
    installed = resources.files("pconv") / SHIPPED
    in_clone = Path(__file__).resolve().parents[1] / "data" / SHIPPED
    for path in (installed, in_clone):
        if path.is_file():
            return Path(str(path))
    raise FileNotFoundError(
        f"the shipped weights are neither at {installed} nor at {in_clone}: install pconv again"
    )


def load_pretrained(device: str | torch.device = "cpu") -> PConvUNet:
    """The shipped weights, in float32 and eval mode.

    data/README.md says how they were trained and how well they do. Raises FileNotFoundError if the
    file is missing, ValueError if it is damaged.
    """
    return load_weights(pretrained_file(), device)
