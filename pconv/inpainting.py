"""Inpaint one photo; save and load the weights that do it."""

import json
from importlib import resources
from pathlib import Path
from zipfile import is_zipfile

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from tqdm import tqdm

from pconv.files import atomic_write
from pconv.image_reader import read_image, white_level
from pconv.photos import as_photo, to_tensor
from pconv.tiles import LARGEST, LARGEST_TEXTURE, fill, find_regions, make_plan
from pconv.unet import PConvUNet

SHIPPED = "pconv_small.safetensors"


def inpaint(
    model: nn.Module,
    photo: np.ndarray | Image.Image | str | Path,
    holes: np.ndarray,
    *,
    progress: bool = False,
) -> np.ndarray:
    """The photo with its holes filled in; every pixel outside the holes is returned bit for bit.

    The model runs on its device and in its dtype, in eval mode. A large photo is filled in tiles,
    from coarse to fine where holes are deep: time and memory follow the holes. A gray photo stays
    gray.

    Args:
        model: image, mask -> image, such as a PConvUNet.
        photo: uint8 or uint16 (H, W, 3), a Pillow image or a path, of any size.
        holes: bool (H, W), True = hole.
        progress: whether to show a bar if it takes more than 2 seconds.

    Returns:
        uint8 (H, W, 3); uint16 for a photo of 16 bits per channel.

    Raises:
        TypeError: for holes that are not bool.
        ValueError: for holes of another size or all over the photo, and as `as_photo`.
    """
    if isinstance(photo, str | Path):
        photo = read_image(photo).pixels
    elif getattr(photo, "dtype", None) != np.uint16:
        photo = as_photo(photo)
    holes = np.asarray(holes)
    _check_holes(photo, holes)
    filled = photo.copy()
    if not holes.any():
        return filled
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            _fill_holes(model, filled, holes, progress)
    finally:
        model.train(training)
    if _is_gray(photo, holes):
        filled[holes] = np.rint(filled[holes].mean(1, keepdims=True)).astype(photo.dtype)
    return filled


def _fill_holes(model: nn.Module, photo: np.ndarray, holes: np.ndarray, progress: bool) -> None:
    """Writes the model's output into the holes of `photo`."""
    parameter = next(model.parameters())
    white = white_level(photo, ~holes[:, :, None])
    largest = LARGEST_TEXTURE if getattr(model, "copy_texture", False) else LARGEST
    plans = []
    for region in find_regions(holes, largest):
        mask = torch.from_numpy(~holes[region])[None, None]  # (1, 1, H, W)
        plans.append((region, make_plan(mask.to(parameter.device), largest)))
    tiles = sum(len(step.tiles) for _, plan in plans for step in plan)
    with tqdm(total=tiles, unit="tile", delay=2, disable=not progress) as bar:
        for region, plan in plans:
            output = fill(
                model,
                to_tensor(photo[region], white).to(parameter.device, parameter.dtype),
                plan,
                bar.update,
            )
            output = output[0, :, plan[0].mask[0, 0].logical_not()]
            levels = output.float().nan_to_num(0).clamp(0, 1).mul(white).round()  # (3, pixels)
            photo[region][holes[region]] = levels.T.cpu().numpy().astype(photo.dtype)


def _check_holes(photo: np.ndarray, holes: np.ndarray) -> None:
    if holes.dtype != bool:
        raise TypeError(f"holes are {holes.dtype}; expected bool, True = hole: holes > 0")
    if photo.ndim != 3 or photo.shape[2] != 3:
        raise ValueError(f"the photo has shape {photo.shape}; expected (H, W, 3)")
    if holes.shape != photo.shape[:2]:
        raise ValueError(f"holes have shape {holes.shape}; the photo has {photo.shape[:2]}")
    if holes.all():
        raise ValueError("all of the photo is a hole: there is nothing to continue")


def _is_gray(photo: np.ndarray, holes: np.ndarray) -> bool:
    """Whether the three channels are equal wherever there is no hole."""
    red, green, blue = (photo[:, :, channel] for channel in range(3))
    return bool((((red == green) & (red == blue)) | holes).all())


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
    if is_zipfile(path):  # torch.save
        weights = Path(path).with_name("weights.safetensors")
        state = "are in" if weights.is_file() else "will be, once the training has ended, in"
        raise ValueError(
            f"{path} does not hold the weights of a PConvUNet alone: it is a checkpoint, from "
            f"which `pconv train --resume` goes on; the weights {state} {weights}"
        )
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
        _check_architecture(architecture, state)
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


def _check_architecture(architecture: dict, state: dict[str, Tensor]) -> None:
    """Raises ValueError unless the tensors are of that size: a damaged header may claim any."""
    widths = architecture["widths"]
    shapes = {name: state[name].shape for name in state if name.endswith("conv.weight")}
    if not all(state[name].is_floating_point() for name in shapes):
        raise ValueError("its weights are no floating-point numbers")
    if 2 * len(widths) != len(shapes):
        raise ValueError(f"{len(widths)} widths for {len(shapes)} layers")
    expected = [(f"encoder.{level}", 0, width) for level, width in enumerate(widths)]
    expected.append(("encoder.0", 1, architecture["in_channels"]))
    expected.append((f"decoder.{len(widths) - 1}", 0, architecture["out_channels"]))
    for layer, axis, channels in expected:
        actual = shapes[f"{layer}.conv.weight"][axis]
        if actual != channels:
            raise ValueError(f"{layer} has {actual} channels, not {channels}")


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
