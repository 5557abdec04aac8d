"""What all tests share: two threads, the same random numbers every time, small files to work on."""

import os

import numpy as np
import pytest
import torch
from helpers import HOLES, PHOTO, TRAIN, SmallDisk
from hypothesis import HealthCheck, settings
from PIL import Image

from pconv import History, PConvUNet, save_weights
from pconv.cli import main
from pconv.photos import bundled_photos

settings.register_profile(
    "pconv",
    deadline=None,
    derandomize=True,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("pconv")
ONE_OF_SEVERAL = "PYTEST_XDIST_WORKER" in os.environ  # one of the processes of `make test`
torch.set_num_threads(1 if ONE_OF_SEVERAL else 2)
if ONE_OF_SEVERAL:
    os.environ["OMP_NUM_THREADS"] = "1"  # of the kernels and commands that tests start


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "compile: exports or compiles, which takes seconds (-m 'not compile' leaves out)"
    )


@pytest.fixture(autouse=True)
def _repeatable(request):
    """Every test starts from the same random state; what it compiled is forgotten."""
    torch.manual_seed(0)
    np.random.seed(0)
    yield
    if request.node.get_closest_marker("compile"):
        torch.compiler.reset()


@pytest.fixture
def one_thread():
    """For nets so tiny that they wait longer for a second thread than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def check_output(capsys):
    """What a check of the course prints about an answer."""

    def run(check, answer):
        check(answer)
        return capsys.readouterr().out.strip()

    return run


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A file with the weights of a tiny net. Only to be read."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(PConvUNet(widths=(4, 4)), path)
    return path


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The folder of a training of two steps. Only to be read."""
    out = tmp_path_factory.mktemp("trained") / "out"
    main([*TRAIN, "--steps", "2", "--out", str(out)])
    return out


@pytest.fixture
def workdir(tmp_path, monkeypatch):
    """The working directory; it holds photo.png and mask.png."""
    Image.fromarray(PHOTO).save(tmp_path / "photo.png")
    Image.fromarray(HOLES).save(tmp_path / "mask.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def photos(tmp_path):
    """A folder of three small real photos, one of them in a subfolder."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    names = ("a.png", "b.jpg", "more/c.PNG")
    for name, photo in zip(names, bundled_photos().values(), strict=False):
        Image.fromarray(photo).resize((48, 40)).save(folder / name)
    return folder


@pytest.fixture
def small_disk(tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    return SmallDisk(tmp_path / "disk", monkeypatch)


@pytest.fixture
def history():
    """A run of three logs: what is measured at a step differs."""
    history = History()
    history.record(10, total=3.0, samples_per_second=40.0)
    history.record(10, psnr=20.5)
    history.record(20, total=1 / 3, samples_per_second=50.0)
    history.record(30, samples_per_second=90.0)
    return history
