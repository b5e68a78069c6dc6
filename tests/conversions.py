"""Conversions of checkpoints, and what a converted one computes."""

from pathlib import Path

import numpy as np
from pictures import make_picture

from mlx_lfm2vl.loading import load
from mlx_lfm2vl.prompt.messages import user_message
from mlx_lfm2vl.quantize.choice import QuantizeOptions
from mlx_lfm2vl.quantize.conversion import Conversion, ConvertOptions


def convert(source, target, *, report=lambda *_: None, **options) -> Conversion:
    """Convert with the options of both dataclasses."""
    known = {
        name: options.pop(name) for name in list(options) if name in ConvertOptions.__match_args__
    }
    settings = ConvertOptions(quantize=QuantizeOptions(**options), **known)
    conversion = Conversion(Path(source), settings)
    conversion.write(Path(target), report=report)
    return conversion


def logits_of(folder) -> np.ndarray:
    """Of a prompt with an image."""
    model, processor = load(folder, dtype="float32")
    inputs = processor(user_message("What is this?", [make_picture(60, 90, 1)]))
    return np.array(model(inputs.input_ids, inputs.pixel_values, inputs.spatial_shapes))


def convert_command(source, target) -> list[str]:
    return ["--model", str(source), "--output", str(target)]
