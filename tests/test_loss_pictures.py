"""The drawings of notebook 05: what they show is what the loss computes."""

import matplotlib.pyplot as plt
import pytest
import torch
from course import loss_pictures

import pconv


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def test_the_mean_of_each_map_is_its_term():
    vgg = pconv.VGGFeatures("random", layers=("pool1", "pool2"))
    output, photo = torch.rand(2, 1, 3, 16, 24)
    mask = torch.ones(1, 1, 16, 24, dtype=torch.bool)
    mask[..., 3:9, 5:24] = False  # up to the border
    terms = pconv.InpaintingLoss(vgg)(output, photo, mask)
    maps = loss_pictures.term_maps(vgg, output, photo, mask)
    assert set(maps) == {"valid", "hole", "tv", "perceptual"}
    for name, values in maps.items():
        assert values.shape[2:] == photo.shape[2:]
        torch.testing.assert_close(values.mean(), getattr(terms, name), rtol=1e-4, atol=0)


def test_a_table_of_distances_is_compared_by_texture():
    near = torch.full((4, 4), 3.0)
    near[:2, :2] = near[2:, 2:] = 1.0
    near.fill_diagonal_(0)
    assert loss_pictures.draw_distances({"a table": near}, ["one", "two"]) == {"a table": 3.0}


def test_a_blur_of_nothing_and_a_crop_are_what_they_say():
    image = torch.rand(1, 3, 32, 32)
    assert loss_pictures.blurred(image, 0) is image
    assert loss_pictures.blurred(image, 2).std() < 0.5 * image.std()
    assert torch.equal(loss_pictures.crop(image, 3, 5, 8), image[..., 3:11, 5:13])


def test_heat_is_black_at_0_and_brightest_at_the_largest():
    drawn = loss_pictures.heat(torch.tensor([[0.0, 1.0], [0.5, 1.0]]))
    assert drawn.shape == (2, 2, 3)
    assert drawn[0, 0].max() < 0.02 and drawn[0, 1].min() > 0.7
