"""Train a LoRA adapter with mlx_lfm2vl for a few updates, and print JSON.

usage: python benchmarks/training_ours.py CHECKPOINT ROWS UPDATES

`training_peer.py` makes the same measurements of mlx-vlm, in the peer's environment.
"""

import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import mlx.core as mx

from mlx_lfm2vl import load
from mlx_lfm2vl.arrays import named_arrays
from mlx_lfm2vl.prompt.rows import read_rows
from mlx_lfm2vl.prompt.samples import SampleMaker
from mlx_lfm2vl.training.adapters import make_trainable
from mlx_lfm2vl.training.batches import make_batch
from mlx_lfm2vl.training.loss import as_float, loss_sum, on_device
from mlx_lfm2vl.training.settings import TrainSettings
from mlx_lfm2vl.training.trainer import Trainer

BATCH = 2


def main(checkpoint: str, rows_path: str, updates: int) -> None:
    model, processor = load(checkpoint, dtype="float32")
    rows = read_rows(Path(rows_path))
    maker = SampleMaker(processor, set(model.config.eos_token_ids))
    settings = TrainSettings(
        parts=("language",),
        rank=8,
        steps=updates,
        batch_size=BATCH,
        learning_rate=1e-4,
        save_every=updates + 1,
    )
    make_trainable(model, settings)
    trained = named_arrays(model.trainable_parameters())
    batch = make_batch([maker(row) for row in rows[:BATCH]], model)
    loss = as_float(loss_sum(model, *on_device(batch), batch.grids)) / batch.tokens
    mx.reset_peak_memory()
    times = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model,
            maker,
            rows,
            settings,
            Path(folder),
            report=lambda _: times.append((time.perf_counter(), time.process_time())),
        )
        times.append((time.perf_counter(), time.process_time()))
        trainer.train()
    measured = {
        "loss": loss,
        "tokens": batch.tokens,
        "trained_layers": len(trained) // 2,
        "trained_numbers": sum(value.size for value in trained.values()),
        "seconds": [b[0] - a[0] for a, b in zip(times, times[1:], strict=False)],
        "cpu_seconds": [b[1] - a[1] for a, b in zip(times, times[1:], strict=False)],
        "peak_bytes": mx.get_peak_memory(),
        "max_rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }
    print(json.dumps(measured))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
