"""Shared fixtures: golden cases from the reference, and Liquid AI's files where they are at hand."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from pictures import make_picture

GOLDEN = Path(__file__).parent / "golden"
CASES = ["new_names", "old_names", "head_72", "untied_sharded_bf16", "real_geometry"]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """No test reaches the network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


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
