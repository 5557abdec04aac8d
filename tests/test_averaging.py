"""The moving average of the weights, alone and in a training."""

import copy

import pytest
import torch
from torch import nn

from pconv import InpaintingLoss, LossWeights, PConvUNet, Trainer, VGGFeatures
from pconv.averaging import MovingAverage
from pconv.data import TrainingBatches

COLORS = LossWeights(perceptual=0, style_out=0, style_comp=0)


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_it_is_the_recursion(decay):
    model = nn.Linear(2, 3)
    average = MovingAverage(model, decay)
    expected = None
    for step in range(30):
        with torch.no_grad():
            model.weight.copy_(torch.rand(3, 2))
        average.update_parameters(model)
        weight = model.weight.detach().double()
        d = min(decay, (1 + step) / (10 + step))
        expected = weight if expected is None else d * expected + (1 - d) * weight
        torch.testing.assert_close(average.module.weight.double(), expected, rtol=1e-5, atol=1e-6)


def trainer(ema, texture_ramp_steps=0):
    torch.manual_seed(0)
    features = VGGFeatures("random", layers=("pool1",))
    loss = InpaintingLoss(features, COLORS)
    model = PConvUNet(widths=(4, 6), residual=True)
    return Trainer(
        model, loss, "fp32", "cpu", lr=1e-2, ema=ema, texture_ramp_steps=texture_ramp_steps
    )


def batches(photo_list):
    return TrainingBatches(photo_list, 16, 2, seed=0)


@pytest.fixture
def photo_list():
    generator = torch.Generator().manual_seed(1)
    return [
        torch.randint(256, (24, 24, 3), generator=generator, dtype=torch.uint8).numpy()
        for _ in range(3)
    ]


def test_a_training_averages_its_weights_and_is_else_the_same(photo_list):
    averaged, plain = trainer(0.9), trainer(None)
    seen = []
    step = averaged._train_on

    def watched(images, masks):
        terms = step(images, masks)
        seen.append(copy.deepcopy(averaged.model.state_dict()))
        return terms

    averaged._train_on = watched
    for one in (averaged, plain):
        one.fit(batches(photo_list), 12)
    assert plain.trained_model is plain.model
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, averaged.model.state_dict()[name])
    result = averaged.trained_model
    expected = seen[0]["decoder.1.conv.weight"].double()
    for count, state in enumerate(seen[1:], 1):
        d = min(0.9, (1 + count) / (10 + count))
        expected = d * expected + (1 - d) * state["decoder.1.conv.weight"].double()
    torch.testing.assert_close(result.decoder[1].conv.weight.double(), expected, rtol=1e-4, atol=0)
    # The statistics of batch norm are the model's own.
    norm = averaged.model.encoder[1].norm
    assert torch.equal(result.encoder[1].norm.running_mean, norm.running_mean)


def test_what_is_validated_is_the_average(photo_list):
    averaged = trainer(0.9)
    models = []

    def validate(model):
        assert not model.training
        models.append(model)
        return {}

    averaged.fit(batches(photo_list), 2, validate=validate, validate_every=1)
    assert all(model is averaged.trained_model is not averaged.model for model in models)


def test_it_goes_on_from_a_checkpoint(photo_list):
    whole = trainer(0.9)
    whole.fit(batches(photo_list), 6)
    first, second = trainer(0.9), trainer(0.9)
    data = batches(photo_list)
    first.fit(data, 3)
    again = batches(photo_list)
    second.resume(copy.deepcopy(first.state(data)), again)
    second.fit(again, 3)
    for name, value in whole.trained_model.state_dict().items():
        assert torch.equal(value, second.trained_model.state_dict()[name]), name


def test_texture_terms_rise_to_their_weights(photo_list):
    one = trainer(None, texture_ramp_steps=4)
    scales = []
    step = one._train_on

    def watched(images, masks):
        terms = step(images, masks)
        scales.append(one.loss.texture_scale)
        return terms

    one._train_on = watched
    one.fit(batches(photo_list), 6)
    assert scales == [0.25, 0.5, 0.75, 1, 1, 1]
