"""Shared fixtures: golden cases from the reference, and published files where at hand."""

import contextlib
import ctypes
import gc
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # one process per core, and small products
with contextlib.suppress(OSError):  # Linux: some 80 times faster products than MLX's own BLAS
    ctypes.CDLL("libopenblas.so.0", mode=ctypes.RTLD_GLOBAL)
    os.environ.setdefault("LD_PRELOAD", "libopenblas.so.0")  # the programs that tests start too

import mlx.core as mx
import numpy as np
import pytest
from mutations import MAX_BYTES, Bounds, peak_bytes
from pictures import make_picture

from mlx_lfm2vl import device_thread
from mlx_lfm2vl.checkpoint.config import read_model_config
from mlx_lfm2vl.checkpoint.image_config import read_image_config
from mlx_lfm2vl.loading import load
from mlx_lfm2vl.model.lfm2vl import Lfm2VL
from mlx_lfm2vl.prompt.processor import Processor
from mlx_lfm2vl.saving import write_weights

GOLDEN = Path(__file__).parent / "golden"
CASES = [
    "new_names",
    "old_names",
    "head_72",
    "untied_sharded_bf16",
    "real_geometry",
    "odd_constants",
    "own_head",
]


# The default model of whoever runs the tests.
os.environ.pop("LFM2VL_MODEL", None)
os.environ.pop("MLX_LFM2VL_CACHE", None)
os.environ["XDG_CONFIG_HOME"] = os.devnull
# Modules are compiled once, not by every worker and every program that a test starts.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
os.environ["HF_HUB_OFFLINE"] = "1"  # no test reaches the Hub; read when that library is imported
# Shells start background jobs with Ctrl-C ignored, and the programs that tests start inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Why a test may be skipped. For any other reason, such as a lost dependency, it fails.
KNOWN_SKIPS = {
    "LFM2VL_ASSETS is not set",
    "LFM2VL_FULL_SIZE is not set",
    "exiftool is not installed",
    "MLX compiles with g++ here",
    "GPUs do it unasked",
    "chromium is not installed",
    "only Linux has /dev/full",
    "this Python's readline is libedit",
}


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Keep the garbage collector from walking again and again over what lives to the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    return only_known_skips((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    return only_known_skips((yield))


def only_known_skips(report: Any) -> Any:
    """A report in which a skip for an unknown reason is a failure."""
    if report.skipped and isinstance(report.longrepr, tuple):  # an expected failure has no tuple
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if reason not in KNOWN_SKIPS:
            report.outcome = "failed"
            report.longrepr = f"skipped, but conftest.KNOWN_SKIPS lacks the reason: {reason}"
    return report


@pytest.fixture(autouse=True)
def as_if_alone() -> Iterator[None]:
    """What a test draws, and which thread the device is used from, do not depend on others."""
    mx.random.seed(0)
    before = device_thread._THREAD
    device_thread._THREAD = device_thread._DeviceThread()
    yield
    device_thread._THREAD = before


@pytest.fixture
def bounds(request, record_property):
    """Watches the cases of a fuzz target. A long run has the process to itself, and reports."""
    bounds = Bounds()
    yield bounds
    if request.node.get_closest_marker("fuzz"):
        record_property("fuzz", bounds.summary())
        assert peak_bytes() < MAX_BYTES


def pytest_terminal_summary(terminalreporter):
    reports = terminalreporter.stats.values()
    for report in (report for kind in reports for report in kind):
        for name, value in getattr(report, "user_properties", ()):
            if name == "fuzz" and report.when == "teardown":
                terminalreporter.write_line(f"{report.nodeid}: {value}")


@pytest.fixture
def synced(monkeypatch) -> list[str]:
    """The paths of all files and folders that are written through to the disk, in order."""
    paths, opened = [], {}
    open_, fsync = os.open, os.fsync

    def remembered(path, *arguments, **options):
        descriptor = open_(path, *arguments, **options)
        opened[descriptor] = str(path)
        return descriptor

    monkeypatch.setattr(os, "open", remembered)
    monkeypatch.setattr(os, "fsync", lambda file: (paths.append(opened[file]), fsync(file)))
    return paths


@pytest.fixture(scope="session")
def assets() -> Path:
    """Published configs, tokenizers and templates; their licence keeps them out of this repo."""
    folder = os.environ.get("LFM2VL_ASSETS")
    if not folder:
        pytest.skip("LFM2VL_ASSETS is not set")
    return Path(folder)


@dataclass(frozen=True)
class Golden:
    """One tiny checkpoint and what the reference computes from it."""

    name: str
    tensors: dict[str, np.ndarray]
    prompts: dict[str, Any]

    @property
    def folder(self) -> Path:
        return GOLDEN / self.name / "checkpoint"

    def messages(self, prompt: str) -> list[dict[str, Any]]:
        return [
            {**message, "content": with_pictures(message["content"])}
            for message in self.prompts[prompt]["messages"]
        ]

    def expected(self, prompt: str, key: str) -> np.ndarray:
        return self.tensors[f"{prompt}.{key}"]


def with_pictures(content: Any) -> Any:
    if isinstance(content, str):
        return content
    return [
        {"type": "image", "image": make_picture(*item["picture"])} if "picture" in item else item
        for item in content
    ]


def load_tensors(path: Path) -> dict[str, np.ndarray]:
    tensors = mx.load(str(path))
    assert isinstance(tensors, dict)
    return {name: np.array(value) for name, value in tensors.items()}


def golden(name: str) -> Golden:
    case = GOLDEN / name
    prompts = json.loads((case / "expected.json").read_text())["prompts"]
    return Golden(name, load_tensors(case / "expected.safetensors"), prompts)


def relative_error(actual: mx.array | np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, relative to the largest expected value."""
    actual = np.array(actual, dtype=np.float32)
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


@pytest.fixture(scope="session")
def tiny():
    """A loaded tiny checkpoint: model and processor."""
    return load(golden("new_names").folder, dtype="float32")


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A tiny checkpoint folder of one's own, to break."""
    return Path(shutil.copytree(golden("new_names").folder, tmp_path / "checkpoint"))


@pytest.fixture(scope="session")
def wide(tmp_path_factory) -> Path:
    """A checkpoint folder of random weights, wide enough to be quantized everywhere, in float16."""
    folder = tmp_path_factory.mktemp("wide") / "checkpoint"
    shutil.copytree(golden("new_names").folder, folder)
    edit_json(
        folder / "config.json",
        projector_hidden_size=192,
        text_config__hidden_size=192,
        text_config__intermediate_size=256,
        text_config__block_auto_adjust_ff_dim=False,
        text_config__num_attention_heads=3,
        vision_config__hidden_size=64,
        vision_config__intermediate_size=128,
    )
    mx.random.seed(0)
    model = Lfm2VL(read_model_config(folder), read_image_config(folder))
    model.set_dtype(mx.float16)
    write_weights(model, folder)
    return folder


@pytest.fixture
def program(tmp_path) -> dict[str, str]:
    """An environment in which `mlx_lfm2vl` runs the tiny model, and briefly, whatever is asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "mlx_lfm2vl"
    model = golden("new_names").folder
    command = f'"{sys.executable}" -m mlx_lfm2vl "$@" --model "{model}" --max-tokens 9'
    script.write_text(f"#!/bin/sh\nexec {command}\n")
    script.chmod(0o755)
    root = str(Path(__file__).parent.parent)
    return {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": root}


def edit_json(path: Path, **changes: Any) -> None:
    """Change keys of a JSON file; None removes one. `a__b` reaches into nested objects."""
    values = json.loads(path.read_text())
    for name, value in changes.items():
        *outer, key = name.split("__")
        target = values
        for part in outer:
            target = target[part]
        if value is None:
            target.pop(key, None)
        else:
            target[key] = value
    path.write_text(json.dumps(values))


PUBLISHED_MODELS = ["LFM2-VL-450M", "LFM2.5-VL-450M", "LFM2.5-VL-1.6B"]


@pytest.fixture
def published(assets, tmp_path):
    """Folders with the small files of a published checkpoint and the tokenizer they share."""
    return lambda name: copy_published(assets, name, tmp_path / name)


@pytest.fixture(scope="session")
def published_processor(assets, tmp_path_factory) -> Processor:
    """The processor of LFM2.5-VL-1.6B, whose large vocabulary is read once."""
    folder = tmp_path_factory.mktemp("published") / "LFM2.5-VL-1.6B"
    return Processor.from_folder(copy_published(assets, folder.name, folder))


def copy_published(assets: Path, name: str, folder: Path) -> Path:
    folder.mkdir()
    for path in (assets / name).glob("*"):
        if path.name != "tensor_inventory.json":
            shutil.copyfile(path, folder / path.name)
    shutil.copyfile(assets / "LFM2-VL-450M" / "tokenizer.json", folder / "tokenizer.json")
    return folder
