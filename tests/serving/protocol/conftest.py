"""The demo model as a core answers for it, and as an engine does."""

import pytest
from exchanges import MODEL

from mlx_lfm2vl import Engine, load
from mlx_lfm2vl.serving.core import Core


@pytest.fixture(scope="package")
def core():
    core = Core([MODEL])
    yield core
    core.stop()


@pytest.fixture(scope="package")
def engine():
    return Engine(*load("demo", dtype="float32"))
