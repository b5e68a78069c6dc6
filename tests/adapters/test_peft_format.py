"""Adapters of PEFT give peft's own logits and tokens, and what is not implemented is refused."""

import json

import mlx.core as mx
import numpy as np
import pytest
from adapter_cases import ADAPTERS, CASES, TINY, edited, greedy, logits
from conftest import golden, relative_error

from mlx_lfm2vl.adapters.apply import apply_adapters
from mlx_lfm2vl.commands.fuse import main as fuse
from mlx_lfm2vl.errors import CheckpointError
from mlx_lfm2vl.loading import load

pytest.importorskip("mlx_lm")

PROMPTS = ("small", "text_only")


def check(model, processor, case: str, expected) -> None:
    base = CASES[case]["base"]
    for prompt in PROMPTS:
        found = logits(model, processor, base, prompt)
        assert relative_error(found, expected[f"{case}.{prompt}.logits"]) < 1e-4
        assert (
            greedy(model, processor, base, prompt) == expected[f"{case}.{prompt}.greedy"].tolist()
        )


@pytest.mark.parametrize("case", CASES)
def test_an_adapter_gives_the_logits_and_tokens_of_peft(case, expected):
    folder = golden(CASES[case]["base"]).folder
    model, processor = load(folder, dtype="float32", adapter=ADAPTERS / case)
    check(model, processor, case, expected)


@pytest.mark.parametrize("case", CASES)
def test_a_fused_adapter_gives_the_tokens_of_peft(case, expected, tmp_path):
    base = golden(CASES[case]["base"]).folder
    arguments = ["--adapter", str(ADAPTERS / case), "--output", str(tmp_path / "fused")]
    assert fuse(["--model", str(base), *arguments, "--dtype", "float32"]) == 0
    check(*load(tmp_path / "fused", dtype="float32"), case, expected)
