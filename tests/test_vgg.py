"""VGG's features, by name, frozen; weights from files, from the cache, from strangers."""

import copy
import io
import pickle
import socket
import struct
import urllib.error
from email.message import Message

import pytest
import torch
from helpers import TRAIN, assert_refused
from hostile_files import OLD, Payload, compressed, saved
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from pconv import InpaintingLoss, VGGFeatures


@pytest.fixture(scope="module")
def vgg():
    """Two layers of random filters: small enough for a test, and more than the pixels."""
    return VGGFeatures("random", layers=("relu1_1", "pool1"))


LAST = {"vgg16": "relu5_3", "vgg19": "relu5_4"}


@pytest.mark.parametrize("arch", ["vgg16", "vgg19"])
def test_features_are_torchvisions_by_name_with_the_normalization_inside(arch):
    """In torchvision's `features`, relu2_2 is index 8, pool2 is 9, relu3_1 is 11, in both."""
    mine = VGGFeatures("random", arch, ("relu3_1", "relu2_2", "pool2"))
    assert len(mine.stack) == 12  # cut after the last one
    with torch.device("meta"):
        reference = getattr(models, arch)(weights=None).features[:12]
    reference.load_state_dict(mine.stack.state_dict(), assign=True)
    image = torch.rand(2, 3, 16, 16)
    normalized = (image - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(3, 1, 1)
    before = image.clone()
    actual = mine(image)
    assert torch.equal(image, before)
    for features, index in zip(actual, (11, 8, 9), strict=True):
        torch.testing.assert_close(features, reference[: index + 1](normalized))


def test_names_run_to_the_end_of_both():
    for arch, last in LAST.items():
        with pytest.raises(ValueError, match=f"{last}, pool5$"):
            VGGFeatures("random", arch, ("relu9_9",))


def test_frozen_and_in_eval_mode_for_good(vgg):
    vgg.train()
    assert not any(module.training for module in vgg.modules())
    nn.Sequential(vgg).train()
    assert not any(module.training for module in vgg.modules())
    assert not any(parameter.requires_grad for parameter in vgg.parameters())
    loss = InpaintingLoss(vgg)
    assert not list(filter(lambda parameter: parameter.requires_grad, loss.parameters()))


def test_random_is_the_same_twice_and_leaves_the_global_generator_alone(vgg):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    again = VGGFeatures("random", layers=("pool1",))
    assert torch.equal(torch.get_rng_state(), state)
    for key, value in again.state_dict().items():
        assert torch.equal(value, vgg.state_dict()[key])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_runs_under_autocast_and_keeps_the_memory_format(vgg, dtype):
    image = torch.rand(1, 3, 8, 10).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=dtype):
        actual = copy.deepcopy(vgg).to(memory_format=torch.channels_last)(image)
    for mine, expected in zip(actual, vgg(image.contiguous()), strict=True):
        assert mine.dtype == dtype and mine.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(mine.float(), expected, rtol=0.05, atol=0.05)


# Files of weights ---------------------------------------------------------------------------------


@pytest.fixture
def state(vgg):
    """A torchvision-format state_dict that stops after pool1, and is not the random one."""
    return {f"features.{key}": value + 0.25 for key, value in vgg.stack.state_dict().items()}


def write(state, path):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("as_type", [str, lambda path: path])
def test_weights_from_a_file(tmp_path, state, vgg, ending, as_type):
    path = write({**state, "classifier.0.bias": torch.zeros(3)}, tmp_path / f"vgg{ending}")
    loaded = VGGFeatures(as_type(path), layers=("relu1_1", "pool1"))
    for key, value in loaded.stack.state_dict().items():
        assert torch.equal(value, state[f"features.{key}"])
    assert not torch.equal(loaded(torch.rand(1, 3, 4, 4))[0], vgg(torch.rand(1, 3, 4, 4))[0])


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("layers", "missing"),
    [(("pool2",), "relu2_1.*features.5.weight"), (("pool1", "relu3_1"), "relu2_1")],
)
def test_a_file_that_stops_too_early_names_the_layer(tmp_path, state, ending, layers, missing):
    path = write(state, tmp_path / f"short{ending}")
    with pytest.raises(ValueError, match=f"short{ending} stops before {missing}"):
        VGGFeatures(path, layers=layers)


@pytest.mark.parametrize("ending", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", ["text", "empty", "truncated", "payload", "list", "shape"])
def test_files_that_are_no_weights_are_refused_by_name(tmp_path, state, content, ending):
    path = write(state, tmp_path / f"wrong{ending}")
    mark = tmp_path / "made by the file"
    if content == "shape":
        write({**state, "features.2.weight": torch.zeros(1)}, path)
    elif content == "list":
        torch.save([torch.zeros(3)], path)
    else:
        contents = {
            "text": b"no weights",
            "empty": b"",
            "truncated": path.read_bytes()[:1000],
            "payload": pickle.dumps(Payload(mark), protocol=2),
        }
        path.write_bytes(contents[content])
    with pytest.raises(ValueError, match=f"wrong{ending}"):
        VGGFeatures(path, layers=("pool1",))
    assert not mark.exists()


def test_what_is_not_there_is_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth"):
        VGGFeatures(tmp_path / "nowhere.pth")
    with pytest.raises(ValueError, match="unknown VGG 'vgg11'; expected one of: vgg16, vgg19"):
        VGGFeatures("random", arch="vgg11")
    with pytest.raises(
        ValueError, match=r"unknown layer\(s\) \['conv1'\]; vgg16 has: relu1_1, relu1_2, pool1"
    ):
        VGGFeatures("random", layers=("pool1", "conv1"))
    with pytest.raises(ValueError, match="unknown layer"):
        VGGFeatures("random", layers=())


KEY = "features.0.weight"


def damaged_state(**changes) -> dict:
    state = VGGFeatures("random", layers=("pool1",)).stack.state_dict()
    return {f"features.{name}": value for name, value in state.items()} | changes


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("vgg.pth", lambda mark: saved(damaged_state(**{KEY: Payload(mark)})), "damaged"),
        ("vgg.pth", lambda mark: saved(Payload(mark), **OLD), "damaged"),
        ("vgg.pth", lambda mark: saved(damaged_state(), **OLD)[:5000], "damaged"),
        ("vgg.pth", lambda mark: saved(damaged_state(), **OLD)[:70], "damaged"),
        ("vgg.pth", lambda mark: compressed(saved(damaged_state())), "compressed"),
        ("vgg.pth", lambda mark: saved(damaged_state(**{KEY: "text"})), "is str"),
        (
            "vgg.pth",
            lambda mark: saved(damaged_state(**{KEY: torch.ones(64, 3, 3, 3, dtype=torch.int8)})),
            "is torch.int8",
        ),
        (
            "vgg.pth",
            lambda mark: saved(damaged_state(**{KEY: torch.ones(64, 3, 3, 3, dtype=torch.cfloat)})),
            "is torch.complex",
        ),
        ("vgg.pth", lambda mark: saved([1, 2]), "not a state_dict"),
        ("vgg.safetensors", lambda mark: struct.pack("<Q", 2**40) + b"{}", "safetensors"),
        (
            "vgg.safetensors",
            lambda mark: saved(damaged_state(**{KEY: Payload(mark)})),
            "safetensors",
        ),
    ],
)
def test_hostile_vgg_weights_run_nothing_and_are_refused_by_name(
    name, content, words, tmp_path, capsys
):
    path = tmp_path / name
    path.write_bytes(content(tmp_path / "mark"))
    arguments = [*TRAIN, "--out", tmp_path / "out", "--vgg", path]
    assert words in assert_refused(capsys, arguments, path, unchanged=tmp_path)
    assert not (tmp_path / "mark").exists()


# The ImageNet weights -----------------------------------------------------------------------------


@pytest.fixture
def no_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)


class Portal(io.BytesIO):
    """What `urlopen` returns where something answers in the server's place."""

    def info(self):
        return Message()


@pytest.mark.parametrize(
    "failure",
    [
        urllib.error.URLError("no network"),
        TimeoutError("timed out"),
        ConnectionResetError("reset"),
        "portal",
    ],
)
def test_imagenet_without_network_raises_oserror_and_available_falls_back(
    no_cache, monkeypatch, capsys, failure
):
    timeouts = []

    def urlopen(*args, **kwargs):
        timeouts.append(socket.getdefaulttimeout())
        if failure == "portal":
            return Portal(b"<html>log in first</html>")
        raise failure

    monkeypatch.setattr(torch.hub, "urlopen", urlopen)
    before = socket.getdefaulttimeout()
    with pytest.raises(OSError):
        VGGFeatures("imagenet")
    assert 0 < timeouts[0] <= 30 and socket.getdefaulttimeout() == before
    capsys.readouterr()
    features = VGGFeatures.available(layers=("pool1",))
    assert features.weights == "random" and features.layers == ("pool1",)
    assert sum("random filters" in line for line in capsys.readouterr().out.splitlines()) == 1


def test_imagenet_from_the_cache_needs_no_network(no_cache, monkeypatch, tmp_path, state):
    monkeypatch.setattr(
        torch.hub, "urlopen", lambda *args, **kwargs: pytest.fail("went to the network")
    )
    folder = tmp_path / "home" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    write(state, folder / models.VGG16_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[1])
    loaded = VGGFeatures("imagenet", layers=("pool1",))
    assert torch.equal(loaded.stack[0].weight, state["features.0.weight"])


# Pooling ------------------------------------------------------------------------------------------


def test_average_pooling_is_the_mean_and_its_gradient_reaches_every_pixel():
    largest, mean = (
        VGGFeatures("random", layers=("relu1_2", "pool1"), pooling=pooling)
        for pooling in ("max", "average")
    )
    image = torch.rand(1, 3, 8, 8, requires_grad=True)
    relu, pooled = mean(image)
    assert torch.equal(relu, largest(image)[0])
    windows = relu.unflatten(3, (4, 2)).unflatten(2, (4, 2))  # (1, C, 4, 2, 4, 2)
    torch.testing.assert_close(pooled, windows.mean((3, 5)))
    assert not torch.equal(pooled, largest(image)[1])
    reached = torch.autograd.grad(pooled.sum(), relu, retain_graph=True)[0]
    assert (reached == 0.25).all()
    with pytest.raises(ValueError, match="unknown pooling 'median'"):
        VGGFeatures("random", pooling="median")
