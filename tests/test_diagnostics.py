"""A training that diverged names what went non-finite first."""

import math

import pytest
import torch
from toy_training import Pixels, Planted, batches, make

from pconv import Trainer


@pytest.mark.parametrize(
    ("precision", "where"),
    [
        ("fp32", r"step 4: .*encoder\.1"),
        ("bf16", r"step 4: .*encoder\.1"),
        ("fp16", r"step 2[45]: .*encoder\.1"),  # the scale is given the time to fall
        (
            "pure-fp16",
            r"step 2: .*encoder\.0",
        ),  # Adam's epsilon is 0 in half: the first step already was 0/0
    ],
)
def test_after_a_few_in_a_row_training_stops_and_names_the_culprit(precision, where, tmp_path):
    model = make(widths=(2, 2))
    trainer = Trainer(model, Pixels(), precision, "cpu", log_every=1)
    trainer.fit(batches(batch=1, size=8), 1, checkpoint=tmp_path / "c.pt")
    before = (tmp_path / "c.pt").read_bytes()
    with torch.no_grad():
        model.encoder[1].conv.weight[0, 0, 0, 0] = math.inf
    with pytest.raises(FloatingPointError, match=where + r"\.conv of the model") as error:
        trainer.fit(batches(batch=1, size=8), 50, checkpoint=tmp_path / "c.pt")
    assert "the loss is not finite in valid, hole, total" in str(error.value)
    assert (tmp_path / "c.pt").read_bytes() == before


def test_the_term_and_the_gradient_are_named():
    class Rooted(Pixels):
        def forward(self, output, target, mask):
            terms = super().forward(output, target, mask)
            return terms._replace(
                tv=torch.sqrt(output.sum() * 0) * 0, total=torch.sqrt(output.sum() * 0)
            )

    trainer = Trainer(make(), Rooted(), "fp32", "cpu", log_every=1)
    with pytest.raises(
        FloatingPointError, match=r"loss is finite, the gradient is not, first in decoder.1.conv"
    ):
        trainer.fit(batches(), 5)
    trainer = Trainer(make(), Planted(*[math.inf] * 9), "fp32", "cpu", log_every=1)
    with pytest.raises(
        FloatingPointError, match=r"not finite in total; every layer's output is finite"
    ):
        trainer.fit(batches(), 5)
