"""torchvision's ImageNet weights, downloaded once to its cache."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pickle import UnpicklingError

from torch import Tensor


def download_weights(weights, name: str) -> dict[str, Tensor]:
    """The state_dict of `weights`, from torch.hub's cache or from the network.

    weights: such as torchvision.models.VGG16_Weights.IMAGENET1K_V1. name: of the network, for the
    message. Raises OSError after 10 seconds without an answer.
    """
    try:
        with _socket_timeout(10):
            return weights.get_state_dict(progress=True, check_hash=True)
    except (OSError, HTTPException, RuntimeError, UnpicklingError, EOFError) as error:
        # RuntimeError and the last two come from a damaged download
        raise OSError(f"{name}'s ImageNet weights cannot be had: {error}") from error


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """torch.hub downloads without a timeout of its own."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
