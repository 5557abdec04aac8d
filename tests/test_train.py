"""The training step against one written out by hand; loss scaling; the loop and what it records."""

import copy
import inspect
import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import PHOTO, assert_memory_is_flat, needs_proc
from toy_training import Pixels, Planted, batches, make, same_weights

from pconv import (
    PRECISIONS,
    InpaintingLoss,
    LossTerms,
    PConvUNet,
    Trainer,
    VGGFeatures,
    training_step,
)
from pconv.data import TrainingBatches

# One step -----------------------------------------------------------------------------------------


def test_training_step_is_short():
    source = inspect.getsource(training_step)
    code = [line for line in source.split('"""')[2].splitlines() if line.strip()]
    assert 0 < len(code) <= 15 and sum("AMP" in line for line in code) == 4


def test_fp32_step_is_the_plain_step_bit_for_bit():
    loss = InpaintingLoss(VGGFeatures("random", layers=("pool1",)))
    mine, plain = make(), make()
    optimizers = [torch.optim.Adam(model.parameters(), lr=1e-2) for model in (mine, plain)]
    precision = PRECISIONS["fp32"]
    for image, mask in batches(3):
        terms = training_step(
            mine, loss, optimizers[0], precision.scaler("cpu"), precision, image, mask
        )
        optimizers[1].zero_grad()
        expected = loss(plain(image, mask), image, mask)
        expected.total.backward()
        optimizers[1].step()
        assert all(torch.equal(a, b) for a, b in zip(terms, expected, strict=True))
        assert same_weights(mine, plain)
    assert not same_weights(mine, make())


def test_bf16_step_is_the_autocast_step_bit_for_bit():
    mine, plain = make(), make()
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (mine, plain)]
    precision = PRECISIONS["bf16"]
    for image, mask in batches(2):
        training_step(
            mine, Pixels(), optimizers[0], precision.scaler("cpu"), precision, image, mask
        )
        optimizers[1].zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            output = plain(image, mask)
            terms = Pixels()(output, image, mask)
        assert output.dtype == torch.bfloat16
        terms.total.backward()
        optimizers[1].step()
        assert same_weights(mine, plain)
    assert {p.dtype for p in mine.parameters()} == {torch.float32}


def test_fp16_step_is_the_fp32_step_but_for_rounding():
    """The scale is divided out again before the weights are changed."""
    steps = {}
    for name in ("fp32", "fp16"):
        model, precision = make(widths=(2,)), PRECISIONS[name]
        before = [p.detach().clone() for p in model.parameters()]
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        image, mask = next(batches(1, batch=1, size=4))
        training_step(model, Pixels(), optimizer, precision.scaler("cpu"), precision, image, mask)
        steps[name] = torch.cat(
            [(b - p.detach()).flatten() for b, p in zip(before, model.parameters(), strict=True)]
        )
    assert steps["fp32"].abs().max() > 0.01
    torch.testing.assert_close(steps["fp16"], steps["fp32"], rtol=0.02, atol=2e-3)


def test_an_overflow_is_skipped_and_halves_the_scale():
    class Overflowing(Pixels):
        def forward(self, *arguments):
            terms = super().forward(*arguments)
            return terms._replace(total=terms.total * self.factor)

    loss, model, precision = Overflowing(), make(widths=(2,)), PRECISIONS["fp16"]
    before, scaler = copy.deepcopy(model), precision.scaler("cpu")
    optimizer = torch.optim.Adam(model.parameters())
    image, mask = next(batches(1, batch=1, size=4))
    for scale, loss.factor in ((65536, math.inf), (32768, math.nan), (16384, 1.0)):
        assert scaler.get_scale() == scale
        assert same_weights(before, model) and not optimizer.state  # so far, every step was skipped
        training_step(model, loss, optimizer, scaler, precision, image, mask)
    assert scaler.get_scale() == 16384 and not same_weights(before, model)
    assert all(p.isfinite().all() for p in model.parameters())


def test_pure_fp16_keeps_everything_in_half():
    trainer = Trainer(make(widths=(2,)), Pixels(), "pure-fp16", "cpu")
    trainer.fit(batches(batch=1, size=4), 1)
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float16}
    assert not trainer.scaler.is_enabled()


# The loop -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_loss_goes_down_on_two_images(precision):
    trainer = Trainer(make(widths=(8, 8)), Pixels(), precision, "cpu", lr=1e-2, log_every=1)
    losses = trainer.fit(batches(), 60).series("total")[1]
    assert sum(losses[-4:]) < 0.6 * sum(losses[:4])


def test_fit_is_training_step_in_a_loop():
    trainer = Trainer(make(), Pixels(), "fp32", "cpu", lr=1e-3)
    trainer.fit(batches(), 3)
    trainer.fit(itertools.islice(batches(), 1, None), 2)  # and goes on where it was
    model, precision = make().to(memory_format=torch.channels_last), PRECISIONS["fp32"]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    for image, mask in batches(5):
        training_step(model, Pixels(), optimizer, precision.scaler("cpu"), precision, image, mask)
    assert trainer.step == 5 and same_weights(trainer.model, model)
    assert trainer.model.encoder[1].conv.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_history_of_a_run(precision):
    seen = []

    def validate(model):
        assert not model.training and torch.is_inference_mode_enabled()
        seen.append(model)
        return {"psnr": 20.0 + len(seen)}

    model = make(widths=(2,))
    trainer = Trainer(model, Pixels(), precision, "cpu", log_every=2)
    history = trainer.fit(batches(batch=1, size=4), 5, validate=validate, validate_every=4)
    assert history is trainer.history and model.training
    assert [row["step"] for row in history.rows] == [2, 4, 5]
    for row in history.rows:
        assert row["total"] == pytest.approx(row["valid"] + 6 * row["hole"], rel=1e-5)
        assert row.keys() >= {*LossTerms._fields, "samples_per_second"}
        assert row["samples_per_second"] > 0
        assert row.get("loss_scale") == (65536 if precision == "fp16" else None)
    assert history.series("psnr") == ([4, 5], [21.0, 22.0])
    trainer.fit(batches(batch=1, size=4), 1)
    assert [row["step"] for row in history.rows] == [2, 4, 5, 6]


def test_history_holds_the_losses_of_its_steps():
    trainer = Trainer(make(), Pixels(), "fp32", "cpu", lr=0.0, log_every=1)  # nothing is learnt
    trainer.model.train()
    history = trainer.fit(batches(), 4)
    with torch.no_grad():
        expected = [
            Pixels()(trainer.model(image, mask), image, mask).total.item()
            for image, mask in batches(4)
        ]
    assert history.series("total")[1] == pytest.approx(expected, rel=1e-5)
    assert history.series("total")[1][0] != history.series("total")[1][1]


def test_samples_per_second_are_of_training_alone(monkeypatch):
    """A step of two images takes one second of a made-up clock, a validation a hundred."""
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr("pconv.history.time", clock)

    def takes(seconds):
        clock.now += seconds
        return {}

    loss = Pixels()
    loss.register_forward_hook(lambda *_: takes(1) or None)
    trainer = Trainer(make(), loss, "fp32", "cpu", log_every=4)
    history = trainer.fit(batches(), 10, validate=lambda model: takes(100), validate_every=3)
    assert history.series("samples_per_second") == ([4, 8, 10], [2.0, 2.0, 2.0])


def test_a_validation_that_fails_leaves_the_model_in_training():
    trainer = Trainer(make(), Pixels(), "fp32", "cpu")
    with pytest.raises(ZeroDivisionError):
        trainer.fit(batches(), 1, validate=lambda model: {"psnr": 1 / 0})
    assert trainer.model.training


def test_tf32_is_off_while_fp32_trains_and_as_before_afterwards():
    backend = torch.backends.cuda.matmul
    before, seen = backend.fp32_precision, []

    class Look(Pixels):
        def forward(self, *arguments):
            seen.append(backend.fp32_precision)
            return super().forward(*arguments)

    try:
        backend.fp32_precision = "tf32"
        Trainer(make(), Look(), "fp32", "cpu").fit(batches(), 1)
        assert seen == ["ieee"] and backend.fp32_precision == "tf32"
    finally:
        backend.fp32_precision = before


@pytest.mark.parametrize(
    ("precision", "scales"),
    [("fp32", [None] * 4), ("bf16", [None] * 4), ("fp16", [65536, 32768, 32768, 32768])],
)
def test_a_step_with_gradients_that_are_not_finite_is_skipped_and_history_shows_it(
    precision, scales
):
    trainer = Trainer(make(widths=(2,)), Planted(1.0, math.nan), precision, "cpu", log_every=1)
    history = trainer.fit(batches(batch=1, size=4), 4)
    assert history.series("skipped_steps")[1] == [0, 1, 1, 1]
    assert [row.get("loss_scale") for row in history.rows] == scales
    assert math.isnan(history.rows[1]["total"])
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_a_precision_the_device_lacks_is_refused_before_anything_is_changed():
    model = make()
    with pytest.raises(ValueError, match="tf32 is not possible on cpu"):
        Trainer(model, Pixels(), "tf32", "cpu")
    assert same_weights(model, make())


@needs_proc
def test_memory_is_flat_over_many_training_steps(one_thread):
    loss = InpaintingLoss(VGGFeatures("random", layers=("pool1",)))
    batches = TrainingBatches([np.tile(PHOTO, (3, 3, 1))], 32, 2, seed=0)
    trainer = Trainer(PConvUNet(widths=(4, 4)), loss, "fp32", "cpu")
    assert_memory_is_flat(lambda steps: trainer.fit(batches, steps), 10, 60)
    assert trainer.step == 70 and len(trainer.history.rows) == 7


# The paper's recipe -------------------------------------------------------------------------------


def test_two_phases():
    trainer = Trainer(make(), Pixels(), "fp32", "cpu", lr=1e-2, fine_tune_at=2, fine_tune_lr=1e-3)
    rates, norms = [], []

    def look(model):
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        norms.append([t.clone() for t in model.encoder[1].norm.state_dict().values()])
        return {}

    trainer.fit(batches(), 5, validate=look, validate_every=1)
    assert rates == [1e-2, 1e-2, 1e-3, 1e-3, 1e-3]
    frozen = [
        all(torch.equal(a, b) for a, b in zip(norms[i], norms[i + 1], strict=True))
        for i in range(4)
    ]
    assert frozen == [False, True, True, True]


def test_cosine_schedule():
    trainer = Trainer(make(), Pixels(), "fp32", "cpu", lr=1e-2, cosine_decay_steps=4)
    rates = []
    look = lambda model: rates.append(trainer.optimizer.param_groups[0]["lr"]) or {}  # noqa: E731
    trainer.fit(batches(), 6, validate=look, validate_every=1)
    half = 0.5 * 1e-2 * math.sqrt(0.5)
    assert rates == pytest.approx([1e-2, 0.5e-2 + half, 0.5e-2, 0.5e-2 - half, 0, 0])


def test_accumulation_is_the_whole_batch():
    """The loss is a mean over samples, and one level has no batch norm, so that parts add up."""
    gradients, totals = [], []
    for accumulate in (1, 2, 3, 5, 7):
        model = make(widths=(6,))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        image, mask = next(batches(1, batch=5))
        precision = PRECISIONS["fp32"]
        step = training_step(
            model,
            Pixels(),
            optimizer,
            precision.scaler("cpu"),
            precision,
            image,
            mask,
            grad_accum_steps=accumulate,
        )
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        totals.append(step.total.item())
    assert totals == pytest.approx([totals[0]] * 5, rel=1e-5)
    assert gradients[0].abs().max() > 0.01
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_clipping_is_of_the_real_gradients(precision):
    model = make(widths=(2,))
    before = [p.detach().clone() for p in model.parameters()]
    optimizer, chosen = torch.optim.SGD(model.parameters(), lr=1.0), PRECISIONS[precision]
    image, mask = next(batches(1, batch=1, size=4))
    training_step(
        model, Pixels(), optimizer, chosen.scaler("cpu"), chosen, image, mask, max_grad_norm=0.01
    )
    moved = torch.cat(
        [(b - p.detach()).flatten() for b, p in zip(before, model.parameters(), strict=True)]
    )
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-3)


def test_a_precision_may_be_given_as_an_object():
    scaled = replace(PRECISIONS["fp32"], name="fp32, scaled", scales=True)
    trainer = Trainer(make(), Pixels(), scaled, "cpu", log_every=1)
    history = trainer.fit(batches(), 2)
    assert history.series("loss_scale")[1] == [65536, 65536]
    assert trainer.state()["precision"] == "fp32, scaled"
    with pytest.raises(ValueError, match="tf32 is not possible on cpu"):
        Trainer(make(), Pixels(), PRECISIONS["tf32"], "cpu")


# What fit is given --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda x: (255 * x).byte(), TypeError, "images are torch.uint8; expected floating"),
        (lambda x: 255 * x, ValueError, r"images range from .* to 25.*; expected \[0, 1\]"),
        (lambda x: 2 * x - 1, ValueError, r"images range from -"),
        (lambda x: (x - 0.45) / 0.22, ValueError, r"expected \[0, 1\]"),
    ],
)
def test_images_that_are_not_in_0_to_1_are_refused(change, error, words):
    trainer = Trainer(make(), Pixels(), "fp32", "cpu")
    image, mask = next(iter(batches()))
    with pytest.raises(error, match=words):
        trainer.fit([(change(image), mask)], 1)
    assert trainer.step == 0


@pytest.mark.parametrize("parts", [1, 2])
def test_one_mask_for_all_images_is_that_mask_for_each(parts):
    histories = []
    images, masks = next(iter(batches()))
    for mask in (masks[:1], masks[:1].expand(len(images), -1, -1, -1)):
        trainer = Trainer(make(), Pixels(), "fp32", "cpu", grad_accum_steps=parts, log_every=1)
        histories.append(trainer.fit([(images, mask)] * 3, 3).series("total")[1])
    assert histories[0] == histories[1]
