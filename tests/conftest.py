"""What all tests share: two threads, repeatable property tests, quiet progress bars."""

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "pconv", deadline=None, derandomize=True, max_examples=25, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("pconv")
torch.set_num_threads(2)


def pytest_configure(config):
    config.addinivalue_line("markers", "compile: traces or compiles a model, slow (deselect with -m 'not compile')")


@pytest.fixture(autouse=True)
def _repeatable(monkeypatch):
    """Every test starts from the same random state and leaves no compiled graphs behind; tqdm draws nothing."""
    monkeypatch.setenv("TQDM_DISABLE", "1")
    torch.manual_seed(0)
    yield
    torch.compiler.reset()
