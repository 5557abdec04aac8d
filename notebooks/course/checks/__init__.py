"""The checks of the exercises.

Each says that an answer is right, what is wrong with it, or that there is none yet.
"""

from course.checks.amp import (
    composite_and_hole_l1,
    hole_loss,
    ratio_of_this_mask,
    ratio_once,
    renormalised,
)
from course.checks.fp16 import break_rms_norm, gram_for_half, zero_from
from course.checks.losses import equal_shares, gram_gradient, gram_of_valid
from course.checks.padding import fill_unknown, padding_ratio, partial_padding
from course.checks.partial_convolution import filling_network, layers_at_the_border, partial_conv
from course.checks.photo import filled_around, grown_holes, stamp_holes
from course.checks.speed import largest_batch_that_fits, relative_speed, whole_gain
from course.checks.training import paired_interval, seeds_needed, skipped_steps
from course.checks.unet import levels_at_the_border, network_for_large_photos, window_sum

__all__ = [
    "break_rms_norm",
    "composite_and_hole_l1",
    "equal_shares",
    "fill_unknown",
    "filled_around",
    "filling_network",
    "gram_for_half",
    "gram_gradient",
    "gram_of_valid",
    "grown_holes",
    "hole_loss",
    "largest_batch_that_fits",
    "layers_at_the_border",
    "levels_at_the_border",
    "network_for_large_photos",
    "padding_ratio",
    "paired_interval",
    "partial_conv",
    "partial_padding",
    "ratio_of_this_mask",
    "ratio_once",
    "relative_speed",
    "renormalised",
    "seeds_needed",
    "skipped_steps",
    "stamp_holes",
    "whole_gain",
    "window_sum",
    "zero_from",
]
