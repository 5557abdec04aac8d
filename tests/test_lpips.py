"""LPIPS against its equation, from a file and from what torchvision and the package lpips have."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from skimage.filters import gaussian
from torch import nn
from torchvision.models import SqueezeNet1_1_Weights, squeezenet1_1

from pconv import bundled_photos
from pconv.lpips import LPIPS
from pconv.metrics import compare
from pconv.photos import center_crop

CHANNELS = (64, 128, 256, 384, 384, 512, 512)
PHOTO = center_crop(bundled_photos(held_out=True)["coffee"], 64)


@pytest.fixture(scope="module")
def state():
    """Random filters and heads, which no download is needed for; heads are never negative."""
    torch.manual_seed(0)
    net = squeezenet1_1()
    for conv in (module for module in net.modules() if isinstance(module, nn.Conv2d)):
        nn.init.normal_(conv.bias, std=0.1)
    state = {
        name: value for name, value in net.state_dict().items() if name.startswith("features.")
    }
    return state | {f"lin{i}": torch.rand(channels) for i, channels in enumerate(CHANNELS)}


def blurred(photo, sigma):
    return np.rint(gaussian(photo, sigma, channel_axis=-1) * 255).astype(np.uint8)


def plain_lpips(state, photo, other):
    """Equation 1, pixel by pixel in float64, in the seven slices of the net."""
    net = squeezenet1_1().features.double().requires_grad_(False)
    net.load_state_dict({k[9:]: v for k, v in state.items() if k.startswith("features.")})
    shift = np.array((-0.030, -0.088, -0.188))
    scale = np.array((0.458, 0.448, 0.450))
    features = []
    for image in (photo, other):
        x = torch.from_numpy((image / 127.5 - 1 - shift) / scale).permute(2, 0, 1)[None]
        outputs = []
        for start, stop in ((0, 2), (2, 5), (5, 8), (8, 10), (10, 11), (11, 12), (12, 13)):
            x = net[start:stop](x)
            outputs.append(x[0].clone().permute(1, 2, 0).numpy())  # (H, W, C)
        features.append(outputs)
    total = 0
    for index, pair in enumerate(zip(*features, strict=True)):
        a, b = (x / (np.linalg.norm(x, axis=2, keepdims=True) + 1e-10) for x in pair)
        total += ((a - b) ** 2 @ state[f"lin{index}"].double().numpy()).mean()
    return total


@pytest.mark.parametrize("size", [(64, 64), (17, 17), (37, 53)])
def test_equals_the_equation(state, size):
    photo = PHOTO[: size[0], : size[1]]
    other = np.random.default_rng(0).integers(0, 256, photo.shape, dtype=np.uint8)
    lpips = LPIPS(state)
    assert lpips(photo, other) == pytest.approx(plain_lpips(state, photo, other), rel=1e-4)
    assert lpips(photo, other) == pytest.approx(lpips(other, photo), rel=1e-5)


def test_equal_photos_are_0_and_more_blur_is_further(state):
    lpips = LPIPS(state)
    distances = [lpips(PHOTO, blurred(PHOTO, sigma)) for sigma in (1, 4)]
    assert lpips(PHOTO, PHOTO) == 0 < distances[0] < distances[1]


def test_photos_too_small_for_squeezenet_have_none(state):
    photo = PHOTO[:16]
    assert np.isnan(LPIPS(state)(photo, 255 - photo))


def test_from_a_file_in_half_precision(state, tmp_path):
    path = tmp_path / "judge.safetensors"
    save_file({name: value.half() for name, value in state.items()}, path)
    lpips = LPIPS.from_file(path)
    assert lpips.source == str(path)
    assert all(value.dtype == torch.float32 for value in lpips.state_dict().values())
    assert lpips(PHOTO, 255 - PHOTO) == pytest.approx(LPIPS(state)(PHOTO, 255 - PHOTO), rel=0.02)


@pytest.mark.parametrize("name", ["features.0.weight", "lin6"])
def test_a_file_that_lacks_something_is_refused_by_name(state, tmp_path, name):
    path = tmp_path / "judge.safetensors"
    save_file({key: value for key, value in state.items() if key != name}, path)
    with pytest.raises(ValueError, match=f"{path}: {name} is missing"):
        LPIPS.from_file(path)
    save_file({**state, name: torch.zeros(3, 5)}, path)
    with pytest.raises(ValueError, match=rf"{name} is \(3, 5\); LPIPS \(squeeze\) needs"):
        LPIPS.from_file(path)


def test_it_is_no_loss_and_does_not_learn(state):
    lpips = LPIPS(state).train()
    assert not lpips.training
    assert not any(parameter.requires_grad for parameter in lpips.parameters())
    assert type(lpips(PHOTO, 255 - PHOTO)) is float


def test_from_torchvision_and_the_package_lpips(state, tmp_path, monkeypatch):
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    url = SqueezeNet1_1_Weights.IMAGENET1K_V1.url
    backbone = {key: value for key, value in state.items() if key.startswith("features.")}
    classifier = {"classifier.1.bias": torch.zeros(1000)}
    torch.save(backbone | classifier, cache / url.rsplit("/", 1)[1])
    package = tmp_path / "lpips"
    (package / "weights" / "v0.1").mkdir(parents=True)
    heads = {f"lin{i}.model.1.weight": state[f"lin{i}"].view(1, -1, 1, 1) for i in range(7)}
    torch.save(heads, package / "weights" / "v0.1" / "squeeze.pth")
    spec = SimpleNamespace(origin=str(package / "__init__.py"))
    monkeypatch.setattr("pconv.lpips.find_spec", lambda name: spec if name == "lpips" else None)
    assert LPIPS.download()(PHOTO, 255 - PHOTO) == LPIPS(state)(PHOTO, 255 - PHOTO)


def test_where_the_package_lpips_is_missing_nothing_is_downloaded(monkeypatch):
    monkeypatch.setattr("pconv.lpips.find_spec", lambda name: None)
    monkeypatch.setattr(torch.hub, "urlopen", lambda *_, **__: pytest.fail("went to the network"))
    with pytest.raises(OSError, match="package lpips"):
        LPIPS.download()


def test_compare_reports_it(state):
    holes = np.zeros(PHOTO.shape[:2], bool)
    holes[20:40, 20:40] = True
    restored = np.where(holes[:, :, None], np.uint8(128), PHOTO)
    lpips = LPIPS(state)
    assert compare(restored, PHOTO, holes, lpips)["lpips"] == lpips(restored, PHOTO) > 0
    assert "lpips" not in compare(restored, PHOTO, holes)
