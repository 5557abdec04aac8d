"""Counts what the operations of PyTorch read and write, in numbers."""

from collections.abc import Callable

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class _Traffic(TorchDispatchMode):
    """Adds up the sizes of the tensors that go into each operation and come out of it."""

    def __init__(self):
        super().__init__()
        self.read = 0
        self.written = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        if not operation.is_view:  # a view, such as a transpose, moves nothing
            self.read += sum(x.numel() for x in args if isinstance(x, Tensor))
            self.written += result.numel()
        return result


def count_traffic(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[int, int]:
    """How many numbers the operations of function(x) read and write: (read, written).

    What an operation copies or reads twice inside itself is not seen.
    """
    with _Traffic() as traffic:
        function(x)
    return traffic.read, traffic.written
