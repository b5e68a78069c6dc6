"""Fixtures of the tests of adapters."""

import numpy as np
import pytest
from adapter_cases import ADAPTERS, TINY
from conftest import load_tensors

from mlx_lfm2vl.loading import load


@pytest.fixture
def model_and_processor():
    """A fresh tiny model, free to change."""
    return load(TINY, dtype="float32")


@pytest.fixture(scope="session")
def expected() -> dict[str, np.ndarray]:
    """What peft computes with each adapter."""
    return load_tensors(ADAPTERS / "expected.safetensors")
