"""What is chosen for which chip."""

import platform
import subprocess
import sys

import mlx.core as mx
import pytest

from mlx_lfm2vl import device, loading
from mlx_lfm2vl.device import Chip, Limits, choose_limits, prepare_device, read_chip, set_limits
from mlx_lfm2vl.errors import InputError

GB = 2**30


@pytest.mark.skipif(
    (sys.platform, platform.machine()) != ("linux", "x86_64"), reason="GPUs do it unasked"
)
def test_numbers_too_small_for_float32_cost_nothing():
    code = (
        "import mlx.core as mx, numpy as np\n"
        "from mlx_lfm2vl.device import Chip, prepare_device\n"
        "prepare_device(Chip())\n"
        "print((mx.array([1e-30]) * mx.array([1e-10]) * 1e30).item())\n"
        "print(np.float32(1e-30) * np.float32(1e-10) > 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["0.0", "True"]


@pytest.mark.parametrize(
    ("brand", "expected"),
    [
        ("Apple M1", Chip(1)),
        ("Apple M2 Pro", Chip(2)),
        ("Apple M3 Ultra", Chip(3, ultra=True)),
        ("Apple M12 Max", Chip(12)),
        ("Apple M1 (Virtual)", Chip(1)),
        ("Intel(R) Core(TM) i7", Chip()),
        ("", Chip()),
    ],
)
def test_the_brand_tells_the_chip(monkeypatch, brand, expected):
    monkeypatch.setattr(device, "cpu_brand", lambda: brand)
    assert read_chip() == expected


@pytest.mark.parametrize(
    ("generation", "half"),
    [(0, mx.bfloat16), (1, mx.float16), (2, mx.float16), (3, mx.bfloat16), (5, mx.bfloat16)],
)
def test_bfloat16_begins_with_the_m3(generation, half):
    assert Chip(generation).half == half


@pytest.mark.parametrize(
    ("where", "given", "expected"),
    [
        (Chip(1, ultra=True), None, "1000"),
        (Chip(3, ultra=True), "77", "77"),
        (Chip(4, ultra=True), None, "1000"),
        (Chip(5, ultra=True), None, None),
        (Chip(2), None, None),
    ],
)
def test_long_command_buffers_are_for_ultras_before_the_m5(monkeypatch, where, given, expected):
    import os

    monkeypatch.delenv("MLX_MAX_OPS_PER_BUFFER", raising=False)
    if given:
        monkeypatch.setenv("MLX_MAX_OPS_PER_BUFFER", given)
    prepare_device(where)
    assert os.environ.get("MLX_MAX_OPS_PER_BUFFER") == expected
    monkeypatch.delenv("MLX_MAX_OPS_PER_BUFFER", raising=False)


@pytest.mark.parametrize(
    ("memory", "weights", "expected"),
    [
        (8 * GB, GB, Limits(cache=GB // 2)),
        (2 * GB, GB // 4, Limits(cache=GB // 4)),
        (16 * GB, 6 * GB, Limits(cache=GB, wired=12 * GB)),
        (128 * GB, 6 * GB, Limits(cache=8 * GB)),
    ],
)
def test_limits_follow_memory_and_model(monkeypatch, memory, weights, expected):
    info = {"memory_size": memory, "max_recommended_working_set_size": memory * 3 // 4}
    monkeypatch.setattr(mx, "device_info", lambda: info)
    assert choose_limits(weights) == expected


def test_a_cpu_has_no_limits(monkeypatch):
    monkeypatch.setattr(mx, "device_info", lambda: {"device_name": "a CPU"})
    assert choose_limits(GB) == Limits()


def test_more_than_the_gpu_may_use_is_refused(monkeypatch):
    monkeypatch.setattr(mx, "device_info", lambda: {"max_recommended_working_set_size": 12 * GB})
    with pytest.raises(InputError, match="this Mac's GPU may use at most 12.9 GB"):
        set_limits(Limits(wired=13 * GB))


def test_all_that_the_gpu_may_use_can_be_wired(monkeypatch):
    info = {"memory_size": 16 * GB, "max_recommended_working_set_size": 12 * GB}
    monkeypatch.setattr(mx, "device_info", lambda: info)
    monkeypatch.setattr(mx, "set_cache_limit", lambda _: None)
    wired = []
    monkeypatch.setattr(mx, "set_wired_limit", wired.append)
    set_limits(choose_limits(6 * GB))
    assert wired == [12 * GB]


def test_limits_are_set_where_there_are_any(monkeypatch):
    calls = []
    monkeypatch.setattr(mx, "set_cache_limit", lambda n: calls.append(("cache", n)))
    monkeypatch.setattr(mx, "set_wired_limit", lambda n: calls.append(("wired", n)))
    set_limits(Limits())
    set_limits(Limits(cache=1, wired=2))
    assert calls == [("cache", 1), ("wired", 2)]


@pytest.mark.parametrize(
    ("generation", "asked", "expected"),
    [(2, None, mx.float16), (3, None, mx.bfloat16), (2, "bfloat16", mx.bfloat16)],
)
def test_a_bfloat16_checkpoint_is_float16_on_an_m2(monkeypatch, wide, generation, asked, expected):
    model, _ = loading.load(wide, dtype="bfloat16")
    from mlx_lfm2vl.saving import write_weights

    folder = wide.parent / "half"
    if not folder.exists():
        import shutil

        shutil.copytree(wide, folder)
        write_weights(model, folder)
    monkeypatch.setattr(loading, "GPU", True)
    monkeypatch.setattr(loading, "read_chip", lambda: Chip(generation))
    model, _ = loading.load(folder, dtype=asked)
    assert model.language_model.layers[0].feed_forward.w1.weight.dtype == expected
    model, _ = loading.load(wide)  # a float16 file stays as it is
    assert model.language_model.layers[0].feed_forward.w1.weight.dtype == mx.float16
