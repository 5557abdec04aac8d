"""Inpaint one photo; save and load the weights that do it."""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from pconv.data import as_photo, to_tensor
from pconv.history import replacing
from pconv.unet import PConvUNet


def inpaint(model: nn.Module, photo: np.ndarray | Image.Image | str | Path, holes: np.ndarray) -> np.ndarray:
    """The photo with its holes filled in, uint8 (H, W, 3); every pixel outside the holes is returned bit for bit.

    photo: uint8 (H, W, 3), a Pillow image or a path; holes: bool (H, W), True = hole. Any size. The model is used as it
    is, on its device and in its dtype, in eval mode. Raises TypeError for holes that are not bool, ValueError for holes
    of another size, and as `as_photo`.
    """
    photo = as_photo(photo)
    holes = np.asarray(holes)
    if holes.dtype != bool:
        raise TypeError(f"holes are {holes.dtype}; expected bool, True = hole: holes > 0")
    if holes.shape != photo.shape[:2]:
        raise ValueError(f"holes have shape {holes.shape}; the photo has {photo.shape[:2]}")
    parameter = next(model.parameters())
    image = to_tensor(photo).to(parameter.device, parameter.dtype)
    mask = torch.from_numpy(~holes)[None, None].to(parameter.device)
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            output = model(image, mask)[0]
    finally:
        model.train(training)
    output = output.float().nan_to_num(0).clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
    return np.where(holes[:, :, None], output, photo)


def save_weights(model: PConvUNet, path: str | Path, **metadata: str) -> None:
    """The model as safetensors, with its architecture, and `metadata`, in the header."""
    shape = {"in_channels": model.in_channels, "out_channels": model.out_channels, "widths": model.widths}
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    with replacing(path) as temporary:
        temporary.write_bytes(save(state, {"architecture": json.dumps(shape), **metadata}))


def load_weights(path: str | Path, device: str | torch.device = "cpu") -> PConvUNet:
    """The model that `save_weights` saved, in float32 and eval mode.

    Raises FileNotFoundError where there is no such file, ValueError for one that is not a PConvUNet's weights.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}")
    try:
        with safe_open(path, "pt") as file:
            shape = json.loads((file.metadata() or {})["architecture"])
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        model = PConvUNet(**shape)
        model.load_state_dict(state)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OSError) as error:
        raise ValueError(f"{path} does not hold the weights of a PConvUNet: {error}") from error
    return model.to(device, memory_format=torch.channels_last).eval()
