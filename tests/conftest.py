"""What all tests share: two threads, the same random numbers every time, and property tests that repeat."""

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "pconv", deadline=None, derandomize=True, max_examples=25, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("pconv")
torch.set_num_threads(2)


def pytest_configure(config):
    config.addinivalue_line(
        "markers", "compile: exports or compiles, which takes seconds (-m 'not compile' leaves out)"
    )


@pytest.fixture(autouse=True)
def _repeatable(request):
    """Every test starts from the same random state; what it compiled is forgotten."""
    torch.manual_seed(0)
    yield
    if request.node.get_closest_marker("compile"):
        torch.compiler.reset()


@pytest.fixture
def said(capsys):
    """What a check of the course prints of an answer."""

    def say(check, answer):
        check(answer)
        return capsys.readouterr().out.strip()

    return say
