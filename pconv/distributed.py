"""Several processes that train together, as torchrun starts them."""

import torch
import torch.distributed as dist
from torch import Tensor, nn


def is_distributed() -> bool:
    """Whether torch.distributed is initialized, if only for one process."""
    return dist.is_initialized()


def is_main_process() -> bool:
    """Whether this is the process that writes and prints."""
    return not is_distributed() or dist.get_rank() == 0


def world_size() -> int:
    """How many processes train together; 1 without torch.distributed."""
    return dist.get_world_size() if is_distributed() else 1


def average(values: Tensor) -> Tensor:
    """The mean of `values`, of any shape, over the processes; every process gets it."""
    if is_distributed():
        dist.all_reduce(values)
        values /= world_size()
    return values


def gather(value: object) -> list:
    """The value of every process, in order of their ranks; every process gets it."""
    if not is_distributed():
        return [value]
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast(value: object) -> object:
    """The value of the first process; every process gets it."""
    if not is_distributed():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def is_peer_failure(error: RuntimeError) -> bool:
    """Whether an error says that another process has gone, rather than that something is wrong."""
    if not is_distributed():
        return False
    words = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out")
    return isinstance(error, dist.DistError) or any(word in str(error) for word in words)


def distribute(model: nn.Module) -> nn.Module:
    """The model, with gradients that are averaged over the processes."""
    return nn.parallel.DistributedDataParallel(model) if is_distributed() else model


def synchronize_batch_norm(model: nn.Module, device: torch.device) -> nn.Module:
    """The model, with batch norm over all processes; torch has this for GPUs only."""
    if is_distributed() and device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model
