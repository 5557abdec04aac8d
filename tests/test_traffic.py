"""What `course.traffic` counts: the sizes of what goes into each operation and comes out."""

import torch
from course.traffic import count_traffic


def test_operations_are_counted_and_views_are_not():
    x = torch.rand(2, 3, 5)
    assert count_traffic(lambda x: x + 1, x) == (30, 30)
    assert count_traffic(lambda x: x.mT, x) == (0, 0)
    assert count_traffic(lambda x: x.flatten(1), x) == (0, 0)
    assert count_traffic(lambda x: torch.bmm(x, x.mT) / 15, x) == (60 + 18, 18 + 18)
