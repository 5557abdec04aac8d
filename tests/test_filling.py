"""The experiment of notebook 05 and its record: a hole's pixels under one loss after another."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from course import filling
from PIL import Image
from record_filling import SCENES, write_image

import pconv

ROOT = Path(__file__).parents[1]
IMAGE = ROOT / "notebooks" / "images" / "05_fills.png"
RECORD = json.loads((ROOT / "data" / "results" / "filling_cpu.json").read_text())


@pytest.fixture(scope="module")
def scene():
    return filling.make_scene("gravel", contents=3, seed=4)


@pytest.fixture(scope="module")
def expected(scene):
    return filling.ExpectedLoss(pconv.VGGFeatures("random", layers=("pool1", "pool2")), scene)


def test_a_scene_is_a_square_of_the_photo_with_other_contents(scene):
    photo, mask, contents = scene
    assert photo.shape == (1, 3, filling.SIZE, filling.SIZE) and contents.shape[0] == 3
    assert (~mask).sum() == filling.HOLE**2
    assert torch.equal(contents.where(mask, 0), photo.where(mask, 0).expand_as(contents))
    inside = (..., filling.INSIDE, filling.INSIDE)
    for content in contents:
        assert not torch.equal(content[inside], photo[0][inside])
    again = filling.make_scene("gravel", contents=3, seed=4)
    assert all(torch.equal(a, b) for a, b in zip(again, scene))


def test_no_content_holds_a_pixel_of_what_the_hole_held():
    """A photo whose pixels all differ says where each content was cut out."""
    names = torch.arange(512 * 512).view(512, 512)
    photo = torch.stack([names // 65536, names // 256 % 256, names % 256], -1).byte().numpy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pconv, "bundled_photos", lambda: {"numbered": photo})
        scene = filling.make_scene("numbered", contents=30)
    inside = (..., filling.INSIDE, filling.INSIDE)
    places = torch.tensor([65536.0, 256, 1]).view(1, 3, 1, 1) * 255
    truth = (scene.photo[inside] * places).sum(1).round()
    others = (scene.contents[inside] * places).sum(1).round()
    assert truth.unique().numel() == filling.HOLE**2
    assert not torch.isin(others, truth).any()


@pytest.mark.parametrize("name", filling.RECORDED)
def test_the_expected_loss_is_the_mean_of_the_inpainting_loss(expected, scene, name):
    weights = filling.RECORDED[name]
    pixels = filling.gray_start(scene).expand(-1, 3, -1, -1).clone().requires_grad_()
    output = torch.where(scene.mask, scene.photo, pixels).expand_as(scene.contents)
    naive = pconv.InpaintingLoss(expected.vgg, weights)(output, scene.contents, scene.mask).total
    (gradient,) = torch.autograd.grad(naive, pixels)
    cheap = expected(pixels, weights)
    torch.testing.assert_close(cheap, naive, rtol=1e-5, atol=0)
    (actual,) = torch.autograd.grad(cheap, pixels)
    torch.testing.assert_close(actual, gradient, rtol=1e-3, atol=1e-6)
    assert not actual.where(scene.mask, 0).any()  # known pixels stay


def test_the_fill_under_l1_is_the_median_and_one_content_is_found_again(expected, scene):
    fill = filling.fill_holes(expected, {"L1": filling.PIXELS}, 100)["L1"]
    median = scene.contents.median(0, keepdim=True).values
    assert (fill - median).abs().mean() < 0.005
    alone = filling.ExpectedLoss(expected.vgg, scene._replace(contents=scene.contents[:1]))
    fill = filling.fill_holes(alone, {"L1": filling.PIXELS}, 100)["L1"]
    assert (fill - scene.contents[:1]).abs().mean() < 0.005


def test_a_descent_stays_in_the_range_of_gray_and_leaves_its_start_alone():
    start = torch.full((1, 1, 4, 4), 0.5)
    end = filling.descend(lambda image: image.sum(), start, steps=40)
    assert end.shape == (1, 3, 4, 4) and (end == 0).all() and (start == 0.5).all()
    assert not end.requires_grad


def test_the_picture_is_read_as_it_was_written(tmp_path):
    generator = torch.Generator().manual_seed(0)
    size = (1, 1, filling.SIZE, filling.SIZE)

    def draw():
        fill = torch.randint(256, size, generator=generator) / 255
        return fill.expand(-1, 3, -1, -1)

    scenes = [("gravel", 0, 3), ("brick", 1, 5)]
    filled = {scene: (None, {name: draw() for name in ("a", "b")}) for scene in scenes}
    write_image(tmp_path / "x.png", filled)
    settings = {"scenes": [list(scene) for scene in scenes], "losses": ["a", "b"]}
    read = filling.recorded_fills(tmp_path / "x.png", {"settings": settings})
    for scene, (_, fills) in filled.items():
        for name, fill in fills.items():
            torch.testing.assert_close(read[scene][name], fill)


def test_the_recorded_picture_is_that_of_the_recorded_numbers():
    fills = filling.recorded_fills(IMAGE, RECORD)
    assert {scene[:2] for scene in fills} == set(SCENES)
    trained = [row for row in RECORD["rows"] if row["vgg"] != "random"]
    assert len(trained) == len(fills) * len(filling.RECORDED)
    for row in trained:
        scene = filling.make_scene(row["texture"], RECORD["settings"]["contents"], row["seed"])
        fill = fills[row["texture"], row["seed"], row["steps"]][row["loss"]]
        assert torch.allclose(fill.where(scene.mask, 0), scene.photo.where(scene.mask, 0))
        l1 = (fill - scene.contents).abs().mean().item()
        assert l1 == pytest.approx(row["hole"], rel=1e-3)
        assert filling.contrast(fill) == pytest.approx(row["contrast"], rel=1e-3)


def test_each_recorded_fill_has_what_its_loss_asks_for():
    groups = filling.record_groups(RECORD)
    assert len(groups) == 2 * len(RECORD["settings"]["scenes"])
    for group in groups:
        smear, perceptual, style = (group[name] for name in filling.LOSSES)
        assert smear["hole"] == min(row["hole"] for row in group.values())
        assert style["style"] == min(row["style"] for row in group.values())
        assert perceptual["perceptual"] < smear["perceptual"]
        assert style["style"] < smear["style"] / 2
        if smear["vgg"] != "random":  # trained filters: by place, stones are further than a smear
            assert smear["perceptual"] < style["perceptual"]
        for name, row in group.items():
            if row is not style:
                assert row["contrast"] < 0.75 * style["contrast"], name


def test_the_title_picture_is_a_photo_of_a_few_kilobytes():
    path = ROOT / "notebooks" / "images" / "05_three_losses.jpg"
    assert path.stat().st_size < 150_000
    assert np.asarray(Image.open(path)).std() > 20
