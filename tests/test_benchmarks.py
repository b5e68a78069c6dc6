"""The instruments in benchmarks/, and what they promise about the code."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import host_syncs  # noqa: E402


@pytest.mark.parametrize(
    "sampling", [host_syncs.Sampling(), host_syncs.LIQUIDS], ids=["greedy", "recommended"]
)
def test_the_device_is_waited_for_once_per_token_and_never_before(sampling):
    syncs = host_syncs.count_waits(host_syncs.TINY, sampling, 3)
    assert dict(syncs.count) == {"mx.array.item": 3}


def test_the_counter_sees_waits():
    import mlx.core as mx
    import numpy as np

    with host_syncs.HostSyncs() as syncs:
        x = mx.arange(3)
        mx.eval(x)
        np.array(x)
        int(x[0])
        x.tolist()
        mx.async_eval(x + 1)
    assert syncs.total == 4
    assert syncs.count["mx.eval"] == 1
