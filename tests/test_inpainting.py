"""One photo in, the same photo out but for its holes; weights to a file and back."""

import json

import numpy as np
import pytest
import torch
from helpers import TRAIN, assert_refused
from hostile_files import HOSTILE_WEIGHTS, shape, with_header
from measure_texture import measure
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from pconv import PConvUNet, inpaint, load_pretrained, load_weights, random_holes, save_weights
from pconv.holes import BUCKETS
from pconv.inpainting import pretrained_file, read_metadata
from pconv.metrics import classical, compare
from pconv.photos import bundled_photos, center_crop, to_tensor


def case(height, width, seed=0):
    rng = np.random.default_rng(seed)
    photo = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return photo, random_holes(height, width, (0.2, 0.5), rng)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return PConvUNet(widths=(4, 6, 8))


class Constant(nn.Module):
    """A model that answers with one value everywhere."""

    def __init__(self, value):
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, image, mask):
        assert not self.training and mask.shape == (1, 1, *image.shape[2:])
        return self.value.expand_as(image)


# Inpainting ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 2), (1, 40), (37, 53), (300, 451)])
@pytest.mark.parametrize("training", [False, True])
def test_outside_the_holes_bit_for_bit_and_inside_the_models_output(model, size, training):
    photo, holes = case(*size)
    before, model = photo.copy(), model.train(training)
    restored = inpaint(model, photo, holes)
    assert restored.shape == photo.shape and restored.dtype == np.uint8 and restored is not photo
    assert np.array_equal(restored[~holes], photo[~holes]) and np.array_equal(photo, before)
    assert model.training == training
    with torch.no_grad():
        output = model.eval()(to_tensor(photo), torch.from_numpy(~holes)[None, None])[0]
    expected = np.rint(output.clamp(0, 1).permute(1, 2, 0).double().numpy() * 255)
    # half a level may round to either side
    assert np.abs(restored[holes] - expected[holes]).max() <= 1
    assert (restored[holes] == expected[holes]).mean() > 0.999


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.5, 128), (1.7, 255), (-3.0, 0), (float("nan"), 0), (float("inf"), 255), (1 / 255, 1)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_output_is_clamped_and_rounded(value, expected, dtype):
    photo, holes = case(9, 8)
    restored = inpaint(Constant(value).to(dtype), photo, holes)
    assert (restored[holes] == expected).all() and np.array_equal(restored[~holes], photo[~holes])


def test_hole_values_do_not_matter(model):
    photo, holes = case(21, 30)
    other = np.where(holes[:, :, None], 255 - photo, photo)
    assert np.array_equal(inpaint(model, photo, holes), inpaint(model, other, holes))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_model_is_used_in_its_own_dtype(dtype):
    photo, holes = case(16, 18)
    torch.manual_seed(0)
    model = PConvUNet(widths=(4, 6))
    expected = inpaint(model, photo, holes)
    restored = inpaint(model.to(dtype), photo, holes)
    assert next(model.parameters()).dtype == dtype
    assert np.abs(restored.astype(int) - expected).max() <= 4
    assert np.array_equal(restored[~holes], photo[~holes])


def test_paths_and_pillow_images_are_taken(model, tmp_path):
    photo, holes = case(11, 13)
    expected = inpaint(model, photo, holes)
    Image.fromarray(photo).save(tmp_path / "photo.png")
    for source in (Image.fromarray(photo), tmp_path / "photo.png", str(tmp_path / "photo.png")):
        assert np.array_equal(inpaint(model, source, holes), expected)


def test_no_holes_change_nothing_and_nothing_but_holes_is_refused(model):
    photo, _ = case(12, 10)
    restored = inpaint(model, photo, np.zeros((12, 10), bool))
    assert np.array_equal(restored, photo) and restored is not photo
    with pytest.raises(ValueError, match="all of the photo is a hole: there is nothing"):
        inpaint(model, photo, np.ones((12, 10), bool))


@pytest.mark.parametrize(
    ("photo", "holes", "error", "words"),
    [
        (
            (8, 9, 3),
            np.zeros((8, 9), np.uint8),
            TypeError,
            "holes are uint8; expected bool, True = hole: holes > 0",
        ),
        (
            (8, 9, 3),
            np.zeros((9, 8), bool),
            ValueError,
            r"holes have shape \(9, 8\); the photo has \(8, 9\)",
        ),
        ((8, 9, 3), np.zeros((8, 9, 1), bool), ValueError, r"holes have shape \(8, 9, 1\)"),
        ((8, 9, 2), np.zeros((8, 9), bool), ValueError, r"the photo has shape \(8, 9, 2\)"),
    ],
)
def test_refusals(model, photo, holes, error, words):
    with pytest.raises(error, match=words):
        inpaint(model, np.zeros(photo, np.uint8), holes)


def test_a_model_that_fails_is_left_in_its_mode():
    four_channels = PConvUNet(4, 3, widths=(2,)).train()
    with pytest.raises(ValueError, match=r"x has 3 channels.*expected 4"):
        inpaint(four_channels, *case(8, 8))
    assert four_channels.training


# Weights ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [{}, {"residual": True}, {"in_channels": 4, "out_channels": 2}])
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last])
def test_weights_go_to_a_file_and_back(tmp_path, shape, format):
    model = PConvUNet(widths=(4, 6), **shape).to(memory_format=format)
    # so that batch norm has seen something
    model(torch.rand(2, model.in_channels, 8, 8), torch.ones(1, 1, 8, 8))
    path = tmp_path / "weights.safetensors"
    save_weights(model, path, photos="the bundled ones", steps="3")
    assert [file.name for file in tmp_path.iterdir()] == ["weights.safetensors"]
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert metadata["photos"] == "the bundled ones" and metadata["steps"] == "3"
    assert json.loads(metadata["architecture"])["widths"] == [4, 6]
    loaded = load_weights(str(path))
    assert not loaded.training and loaded.widths == (4, 6)
    assert list(loaded.state_dict()) == list(model.state_dict())
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)
    image, mask = torch.rand(1, model.in_channels, 9, 7), torch.rand(1, 1, 9, 7) < 0.5
    torch.testing.assert_close(loaded(image, mask), model.eval()(image, mask))


def test_half_weights_load_as_float32(tmp_path):
    model = PConvUNet(widths=(4, 4))
    save_weights(model, tmp_path / "half.safetensors", dtype=torch.float16)
    with safe_open(tmp_path / "half.safetensors", "pt") as file:
        dtypes = {name: file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118 (not a dict)
    counts = {name for name in dtypes if name.endswith("num_batches_tracked")}
    assert counts
    assert all(
        dtypes[name] == (torch.int64 if name in counts else torch.float16) for name in dtypes
    )
    assert model.encoder[0].conv.weight.dtype == torch.float32  # the model itself is left as it was
    loaded, model = load_weights(tmp_path / "half.safetensors"), model.half()
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[key].to(value.dtype))
        assert value.dtype == (torch.int64 if key in counts else torch.float32)


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_weights(PConvUNet(widths=(4,)), path)
    before = path.read_bytes()
    with pytest.raises(Exception, match="str"):
        save_weights(PConvUNet(widths=(4,)), path, steps=3)  # metadata is text
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


ARCHITECTURE = json.dumps({"in_channels": 3, "out_channels": 3, "widths": [4]})


@pytest.mark.parametrize(
    "write",
    [
        lambda path, state: path.write_text("no weights"),
        lambda path, state: path.write_bytes(b""),
        lambda path, state: torch.save(state, path),
        lambda path, state: save_file(state, path),
        lambda path, state: save_file(state, path, {"architecture": "{"}),
        lambda path, state: save_file(state, path, {"architecture": "[]"}),
        lambda path, state: save_file(state, path, {"architecture": '{"width": [4]}'}),
        lambda path, state: save_file(
            state, path, {"architecture": ARCHITECTURE.replace("[4]", "[5]")}
        ),
        lambda path, state: save_file(
            state, path, {"architecture": ARCHITECTURE.replace("[4]", "[]")}
        ),
        lambda path, state: save_file(
            dict(list(state.items())[1:]), path, {"architecture": ARCHITECTURE}
        ),
        lambda path, state: save_file(
            {**state, "more": torch.zeros(1)}, path, {"architecture": ARCHITECTURE}
        ),
    ],
)
def test_files_that_are_no_weights_are_refused_by_name(tmp_path, write):
    path = tmp_path / "wrong.safetensors"
    write(path, PConvUNet(widths=(4,)).state_dict())
    with pytest.raises(
        ValueError, match=r"wrong\.safetensors does not hold the weights of a PConvUNet"
    ):
        load_weights(path)


def test_a_cut_file_and_none_at_all_are_refused_by_name(tmp_path):
    path = tmp_path / "cut.safetensors"
    save_weights(PConvUNet(widths=(4,)), path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"cut\.safetensors does not hold"):
        load_weights(path)
    with pytest.raises(FileNotFoundError, match=r"no weights at .*nowhere\.safetensors"):
        load_weights(tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize("kind", HOSTILE_WEIGHTS)
def test_hostile_weights_run_nothing_and_are_refused_by_name(kind, workdir, weights, capsys):
    path, out = workdir / "theirs.safetensors", workdir / "out"
    path.write_bytes(HOSTILE_WEIGHTS[kind](workdir / "mark"))
    assert_refused(
        capsys,
        ["inpaint", "photo.png", "mask.png", "-o", "out.png", "--weights", path],
        path,
        unchanged=workdir,
    )
    assert_refused(
        capsys,
        ["evaluate", "--weights", path, "--csv", out / "table.csv", "--device", "cpu"],
        path,
        unchanged=workdir,
    )
    assert_refused(capsys, [*TRAIN, "--init", path, "--out", out], path, unchanged=workdir)
    assert not (workdir / "mark").exists()


def test_weights_of_other_channels_and_other_records(workdir, capsys):
    path, photos = workdir / "theirs.safetensors", workdir / "in"
    photos.mkdir()
    (workdir / "photo.png").rename(photos / "photo.png")
    save_weights(PConvUNet(4, 4, widths=(4,)), path)
    words = f"{path} takes 4 channels and gives 4; a photo has 3"
    assert_refused(
        capsys,
        ["inpaint", "in/photo.png", "mask.png", "-o", "out.png", "--weights", path],
        words,
        unchanged=workdir,
    )
    assert_refused(
        capsys,
        ["evaluate", "--weights", path, "--photos", photos, "--size", "16"],
        words,
        unchanged=workdir,
    )
    for record in ("{not JSON", "3"):
        path.write_bytes(with_header(shape(), training=record))
        assert read_metadata(path)["training"] == record
        assert_refused(
            capsys,
            [*TRAIN, "--init", path, "--photos", photos, "--out", workdir / "out"],
            path,
            unchanged=workdir,
        )


# The shipped weights ------------------------------------------------------------------------------


def test_the_shipped_weights_are_small_half_and_say_where_they_are_from():
    path = pretrained_file()
    assert path.stat().st_size <= 16 * 2**20
    metadata, model = read_metadata(path), load_pretrained()
    assert not model.training and {p.dtype for p in model.parameters()} == {torch.float32}
    assert "licence" in metadata and "research" in metadata["licence"]
    phases = json.loads(metadata["training"])
    assert sum(phase["steps"] for phase in phases) > 1000
    assert sum(phase["hours"] for phase in phases) >= 1.5
    for phase in phases:
        assert phase["photos"] > 100
        assert phase["device"]["name"]
        assert phase["date"]
        assert "kodak" not in str(phase).lower()
    assert {"low", "high", "psnr", "ssim"} <= json.loads(metadata["figures"])[0].keys()


def test_the_shipped_weights_are_closer_than_biharmonic_on_photos_they_have_not_seen():
    """On the bundled photos, which they were not trained on. 24 others are in data/results.

    Not in SSIM, which a smooth fill serves better.
    """
    model, psnr = load_pretrained(), {"pconv": [], "biharmonic": []}
    for index, photo in enumerate((bundled_photos() | bundled_photos(held_out=True)).values()):
        photo, rng = center_crop(photo, 256), np.random.default_rng(index)
        holes = random_holes(256, 256, BUCKETS[2 + index % 4], rng)
        for name, filled in (
            ("pconv", inpaint(model, photo, holes)),
            ("biharmonic", classical()["biharmonic"](photo, holes)),
        ):
            psnr[name].append(compare(filled, photo, holes)["psnr"])
    assert np.mean(psnr["pconv"]) > np.mean(psnr["biharmonic"]) + 0.5


def test_the_shipped_weights_paint_texture_and_no_grid():
    """Where the photo has texture to copy, most of it is there, and no period of the network's."""
    model = load_pretrained()
    holes = np.zeros((256, 256), bool)
    holes[80:176, 80:176] = True
    pairs = []
    for name in ("gravel", "grass"):
        photo = center_crop(bundled_photos()[name][:400, :400], 256)
        filled = inpaint(model, photo, holes)
        pairs += zip(measure(filled, photo, holes), measure(photo, photo, holes), strict=True)
    assert np.mean([row["sharpness"] for row, _ in pairs]) > -0.5  # fog has -2 and less
    for period in ("pattern_4", "pattern_8"):
        assert np.mean([row[period] - own[period] for row, own in pairs]) < 0.2


def test_the_shipped_weights_keep_gray_gray():
    checkers = 80 + 90 * (np.indices((64, 64)).sum(0) // 8 % 2)
    photo = np.repeat(checkers[:, :, None], 3, 2).astype(np.uint8)
    holes = np.zeros((64, 64), bool)
    holes[20:44, 20:44] = True
    restored = inpaint(load_pretrained(), photo, holes)
    assert (restored == restored[:, :, :1]).all()


@pytest.mark.parametrize("size", [(1, 2), (1, 40), (37, 53), (300, 451)])
def test_the_shipped_weights_take_any_size(size):
    photo, holes = case(*size)
    assert np.array_equal(inpaint(load_pretrained(), photo, holes)[~holes], photo[~holes])


def test_shipped_weights_that_are_missing_or_damaged_are_named(monkeypatch, tmp_path):
    whole = pretrained_file()
    monkeypatch.setattr("pconv.inpainting.SHIPPED", "gone.safetensors")
    with pytest.raises(
        FileNotFoundError,
        match=r"shipped weights are neither at .*pconv.*gone.* nor at .*data.*gone",
    ):
        load_pretrained()
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(whole.read_bytes()[:-100])
    monkeypatch.setattr("pconv.inpainting.pretrained_file", lambda: cut)
    with pytest.raises(ValueError, match=r"cut\.safetensors does not hold the weights"):
        load_pretrained()
