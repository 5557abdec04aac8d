"""The checks of the exercises.

Each says that an answer is right, what is wrong with it, or that there is none yet.
"""

from course.checks.amp import accumulation, layer_found, training_loop
from course.checks.fp16 import break_rms_norm, gram_for_half, zero_from
from course.checks.losses import equal_shares, gram_gradient, gram_of_valid
from course.checks.memory import fewest_parts, largest_batch_that_fits, part_weights
from course.checks.missing_data import average_of_known, fill_unknown, still_unknown
from course.checks.padding import padding_ratio, partial_padding, run_in_tiles
from course.checks.partial_convolution import filling_network, layers_at_the_border, partial_conv
from course.checks.photo import chosen_method, grown_holes, stamp_holes
from course.checks.speed import relative_speed, whole_gain
from course.checks.training import paired_interval, seeds_needed, skipped_steps
from course.checks.unet import levels_at_the_border, network_for_large_photos, window_sum

__all__ = [
    "accumulation",
    "average_of_known",
    "break_rms_norm",
    "chosen_method",
    "equal_shares",
    "fewest_parts",
    "fill_unknown",
    "filling_network",
    "gram_for_half",
    "gram_gradient",
    "gram_of_valid",
    "grown_holes",
    "largest_batch_that_fits",
    "layer_found",
    "layers_at_the_border",
    "levels_at_the_border",
    "network_for_large_photos",
    "padding_ratio",
    "paired_interval",
    "part_weights",
    "partial_conv",
    "partial_padding",
    "relative_speed",
    "run_in_tiles",
    "seeds_needed",
    "skipped_steps",
    "stamp_holes",
    "still_unknown",
    "training_loop",
    "whole_gain",
    "window_sum",
    "zero_from",
]
