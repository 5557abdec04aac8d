"""Image inpainting with partial convolutions, trained in mixed precision."""

from pconv.history import History
from pconv.holes import random_holes
from pconv.inpainting import inpaint, load_pretrained, load_weights, save_weights
from pconv.layers import (
    PartialConv1d,
    PartialConv2d,
    PartialConv3d,
    PartialPaddingConv2d,
    use_partial_padding,
)
from pconv.losses import InpaintingLoss, LossTerms, LossWeights, gram_matrix
from pconv.metrics import compare, evaluate
from pconv.photos import bundled_photos
from pconv.precision import PRECISIONS, get_precision
from pconv.train import Trainer, training_step
from pconv.unet import PConvUNet
from pconv.vgg import VGGFeatures

__version__ = "0.1.0"

__all__ = [
    "PRECISIONS",
    "History",
    "InpaintingLoss",
    "LossTerms",
    "LossWeights",
    "PConvUNet",
    "PartialConv1d",
    "PartialConv2d",
    "PartialConv3d",
    "PartialPaddingConv2d",
    "Trainer",
    "VGGFeatures",
    "bundled_photos",
    "compare",
    "evaluate",
    "get_precision",
    "gram_matrix",
    "inpaint",
    "load_pretrained",
    "load_weights",
    "random_holes",
    "save_weights",
    "training_step",
    "use_partial_padding",
]
