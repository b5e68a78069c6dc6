"""Golden adapters of peft, how to answer with them, and how to write them again with changes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from conftest import GOLDEN, golden, load_tensors

from mlx_lfm2vl import AnswerOptions, Sampling
from mlx_lfm2vl import generate as answered

ADAPTERS = GOLDEN / "adapters"
CASES = json.loads((ADAPTERS / "expected.json").read_text())["cases"]
TINY = golden("new_names").folder


def logits(model, processor, case: str = "new_names", prompt: str = "small") -> np.ndarray:
    inputs = processor(golden(case).messages(prompt))
    output = model(inputs.input_ids, inputs.pixel_values, inputs.spatial_shapes)
    return np.array(output[0, -1].astype(mx.float32))


def greedy(model, processor, case: str, prompt: str, count: int = 12) -> list[int]:
    model.config = replace(model.config, eos_token_ids=())
    options = AnswerOptions(max_tokens=count, sampling=Sampling())
    return answered(model, processor, golden(case).messages(prompt), options).token_ids


def edited(
    folder: Path,
    copy: Path,
    rename: Callable[[str], str | None] = lambda name: name,
    **settings: Any,
) -> Path:
    """Write an adapter again, with other names of its tensors and other settings.

    Args:
        folder: the adapter.
        copy: the new folder.
        rename: gives a tensor's new name, or None to leave the tensor out.
        settings: keys to set in the config.
    """
    copy.mkdir()
    config = json.loads((folder / "adapter_config.json").read_text())
    (copy / "adapter_config.json").write_text(json.dumps({**config, **settings}))
    for path in folder.glob("*.safetensors"):
        named = [(rename(name), mx.array(value)) for name, value in load_tensors(path).items()]
        mx.save_safetensors(str(copy / path.name), {name: v for name, v in named if name})
    return copy
