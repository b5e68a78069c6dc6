"""An output head of its own, under a config that says tied, goes through every command."""

import mlx.core as mx
import numpy as np
from conftest import golden, relative_error
from training_runs import prompt_logits, run

from mlx_lfm2vl.checkpoint.config import read_model_config
from mlx_lfm2vl.commands.convert import main as convert
from mlx_lfm2vl.commands.fuse import main as fuse
from mlx_lfm2vl.loading import load
from mlx_lfm2vl.training.adapters import load_adapter

MODEL = golden("own_head").folder


def test_it_is_trained_fused_and_quantized(data, tmp_path):
    adapter, fused, packed = (tmp_path / name for name in ("adapter", "fused", "packed"))
    options = ["--method", "full", "--steps", "1", "--learning-rate", "0.05"]
    assert run(data, adapter, *options, model=MODEL) == 0
    model, processor = load(MODEL, dtype="float32")
    head = np.array(model.lm_head.weight)
    load_adapter(model, adapter)
    assert not np.array_equal(np.array(model.lm_head.weight), head)

    paths = ["--adapter", str(adapter), "--output", str(fused), "--dtype", "float32"]
    assert fuse(["--model", str(MODEL), *paths]) == 0
    assert not read_model_config(fused).text.tie_word_embeddings
    again, _ = load(fused, dtype="float32")
    assert relative_error(prompt_logits(again, processor), prompt_logits(model, processor)) < 1e-5

    sizes = ["--bits", "8", "--group-size", "32", "--no-report"]
    assert convert(["--model", str(fused), *sizes, "--output", str(packed)]) == 0
    head = load(packed)[0].lm_head
    assert head.weight.dtype == mx.uint32
